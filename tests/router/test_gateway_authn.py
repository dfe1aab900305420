"""Keys at the door: a key that was right once is looked up every time all the same."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import timedelta

import pytest

from partywall.clock import VirtualClock
from partywall.domain.tenants import ApiKey, Tenant, TenantState
from partywall.errors import PartywallError, PermissionDenied, Reason, Unauthenticated
from router.control.keys import make_key
from router.gateway.authn import Authenticator

CLOCK = VirtualClock()
SECRET = make_key()
KEY = ApiKey(SECRET.id, "t", SECRET.digest, CLOCK.now())
TENANT = Tenant("t", "acme", CLOCK.now())


@dataclass
class Known:
    keys: dict[str, ApiKey] = field(default_factory=lambda: {KEY.id: KEY})
    tenants: dict[str, Tenant] = field(default_factory=lambda: {TENANT.id: TENANT})

    def key(self, key_id: str) -> ApiKey | None:
        return self.keys.get(key_id)

    def tenant(self, tenant_id: str) -> Tenant | None:
        return self.tenants.get(tenant_id)


def metadata(text: str = SECRET.text) -> list[tuple[str, str]]:
    return [("user-agent", "test"), ("authorization", f"Bearer {text}")]


def admitted() -> tuple[Known, Authenticator, list[str]]:
    """An authenticator that has let the key in once."""
    known, used = Known(), []
    authenticator = Authenticator(known, CLOCK, used.append)
    assert authenticator.tenant(metadata()) is TENANT
    return known, authenticator, used


def test_a_key_opens_the_door_again_and_each_use_is_noted() -> None:
    _, authenticator, used = admitted()
    assert authenticator.tenant(metadata()) is TENANT
    assert used == [KEY.id] * 2


CHANGES = {
    "revoked": (replace(KEY, revoked_at=CLOCK.now()), TENANT, Unauthenticated, Reason.KEY_REVOKED),
    "expired": (replace(KEY, expires_at=CLOCK.now() - timedelta(1)), TENANT, Unauthenticated, Reason.KEY_EXPIRED),
    "replaced": (replace(KEY, digest=bytes(32)), TENANT, Unauthenticated, Reason.BAD_CREDENTIAL),
    "deleted": (None, TENANT, Unauthenticated, Reason.BAD_CREDENTIAL),
    "suspended": (KEY, replace(TENANT, state=TenantState.SUSPENDED), PermissionDenied, Reason.TENANT_SUSPENDED),
    "without a tenant": (KEY, None, Unauthenticated, Reason.BAD_CREDENTIAL),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_changes_after_the_first_use_counts_at_once(name: str) -> None:
    key, tenant, kind, reason = CHANGES[name]
    known, authenticator, _ = admitted()
    known.keys = {KEY.id: key} if key else {}
    known.tenants = {TENANT.id: tenant} if tenant else {}
    with pytest.raises(kind) as refused:
        authenticator.tenant(metadata())
    assert isinstance(refused.value, PartywallError)
    assert refused.value.reason is reason


@pytest.mark.parametrize(
    "text", [SECRET.text[:-1], SECRET.text + "x", make_key().text, ""], ids=["cut", "longer", "another", "none"]
)
def test_a_text_that_is_not_the_key_is_refused_after_the_key_was_seen(text: str) -> None:
    _, authenticator, _ = admitted()
    with pytest.raises(Unauthenticated):
        authenticator.tenant(metadata(text))


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_the_schemes_name_has_no_case(scheme: str) -> None:
    _, authenticator, _ = admitted()
    assert authenticator.tenant([("authorization", f"{scheme} {SECRET.text}")]) is TENANT


@pytest.mark.parametrize(
    "text",
    ["", "Bearer", f"Basic {SECRET.text}", SECRET.text, f"Bearer{SECRET.text}"],
    ids=["nothing", "no key", "another scheme", "no scheme", "no space"],
)
def test_another_scheme_is_refused(text: str) -> None:
    _, authenticator, _ = admitted()
    with pytest.raises(Unauthenticated, match="must read 'Bearer <API key>'"):
        authenticator.tenant([("authorization", text)])
