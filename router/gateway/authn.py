"""Who calls: the tenant behind `authorization: Bearer <key>`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import Protocol

from partywall.clock import Clock
from partywall.domain.tenants import ApiKey, Tenant, TenantState
from partywall.errors import PermissionDenied, Reason, Unauthenticated
from router.control.keys import parse_key, verify_key

_BEARER = "Bearer "
# RFC 9110, section 11.1: the name of a scheme has no case.
_SCHEME = _BEARER.lower()


class Keys(Protocol):
    """Where keys and tenants are looked up; the catalog satisfies it."""

    def key(self, key_id: str) -> ApiKey | None: ...

    def tenant(self, tenant_id: str) -> Tenant | None: ...


class Authenticator:
    """Checks API keys in constant time; nothing here blocks.

    A key that was right is known again by the SHA-256 of its text, which leaves nothing to be guessed byte by byte;
    whether it still lives, and whose it is, is looked up every time.
    """

    _MOST_KNOWN = 4096

    def __init__(self, keys: Keys, clock: Clock, note_use: Callable[[str], None] = lambda key_id: None) -> None:
        self._keys = keys
        self._note_use = note_use
        self._clock = clock
        self._known: dict[bytes, tuple[str, bytes]] = {}

    def tenant(self, metadata: Iterable[tuple[str, str | bytes]] | None) -> Tenant:
        """The caller's tenant.

        Raises:
            Unauthenticated: No key, a wrong one, an expired or a revoked one.
            PermissionDenied: The tenant is suspended.
        """
        key = self._key(_bearer(metadata))
        # Most keys have no end: only one that has needs the time.
        if (key.revoked_at is not None or key.expires_at is not None) and not key.live(self._clock.now()):
            revoked = key.revoked_at is not None
            raise Unauthenticated(
                f"the API key {key.id} {'was revoked' if revoked else 'has expired'}; ask the operator for a new one "
                "(partywall keys issue)",
                reason=Reason.KEY_REVOKED if revoked else Reason.KEY_EXPIRED,
                fields={"key_id": key.id},
            )
        tenant = self._keys.tenant(key.tenant_id)
        if tenant is None:
            raise Unauthenticated("the tenant of this API key no longer exists")
        if tenant.state is TenantState.SUSPENDED:
            raise PermissionDenied(
                f"tenant {tenant.name!r} is suspended; the operator can resume it (partywall tenants resume)",
                reason=Reason.TENANT_SUSPENDED,
            )
        self._note_use(key.id)
        return tenant

    def _key(self, secret: str) -> ApiKey:
        fingerprint = hashlib.sha256(secret.encode()).digest()
        known = self._known.get(fingerprint)
        if known is not None:
            key = self._keys.key(known[0])
            if key is not None and key.digest == known[1]:
                return key
        parsed = parse_key(secret)
        key = self._keys.key(parsed.id) if parsed is not None else None
        if parsed is None or not verify_key(parsed, key) or key is None:
            raise Unauthenticated(
                "the API key is not known; check PARTYWALL_API_KEY or --api-key, or ask the operator for a new one"
            )
        if len(self._known) >= self._MOST_KNOWN:
            self._known.clear()
        self._known[fingerprint] = (key.id, key.digest)
        return key


def _bearer(metadata: Iterable[tuple[str, str | bytes]] | None) -> str:
    for name, value in metadata or ():
        if name == "authorization":
            text = value if isinstance(value, str) else value.decode("ascii", "replace")
            if text.startswith(_BEARER) or text[: len(_SCHEME)].lower() == _SCHEME:
                return text[len(_BEARER) :].strip()
            raise Unauthenticated(
                "the authorization metadata must read 'Bearer <API key>'", reason=Reason.BAD_CREDENTIAL
            )
    raise Unauthenticated(
        "no API key: send metadata 'authorization: Bearer <API key>' (partywall keys issue makes one)",
        reason=Reason.NO_CREDENTIAL,
    )
