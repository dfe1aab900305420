"""Tenants and keys through the admin port."""

from __future__ import annotations

from typing import Any

import pytest
from control_world import ADMIN, Ports, World, push, refused

from partywall.errors import (
    AlreadyExists,
    InvalidInput,
    NotFound,
    NotReady,
    Reason,
    Unavailable,
)
from partywall.v1 import tenants_pb2 as pb
from router.control.housekeeping import KeyUse
from router.control.keys import parse_key, verify_key


@pytest.fixture
def ports(empty_ports: Ports) -> Ports:
    return empty_ports


async def create(ports: Ports, name: str = "acme", **quota: Any) -> pb.Tenant:
    made: pb.Tenant = await ports.tenants.CreateTenant(
        pb.CreateTenantRequest(name=name, quota=pb.Quota(**quota)), metadata=ADMIN
    )
    return made


async def issue(ports: Ports, lifetime_s: int = 0) -> pb.IssueKeyResponse:
    request = pb.IssueKeyRequest(tenant="acme", lifetime_s=lifetime_s)
    answer: pb.IssueKeyResponse = await ports.tenants.IssueKey(request, metadata=ADMIN)
    return answer


async def test_create_show_list(ports: Ports, world: World) -> None:
    made = await create(ports, requests_per_s=5.0, weight=2.0)
    assert (made.name, made.quota.requests_per_s, made.quota.weight) == ("acme", 5.0, 2.0)
    assert made.state == pb.TENANT_STATE_ACTIVE
    assert await ports.tenants.GetTenant(pb.GetTenantRequest(name="acme"), metadata=ADMIN) == made
    listed = await ports.tenants.ListTenants(pb.ListTenantsRequest(), metadata=ADMIN)
    assert list(listed.tenants) == [made]
    key, wrapped = world.keys.new_data_key(made.id, "artifact")
    assert world.keys.unwrap(made.id, "artifact", wrapped) == key
    assert world.audit.names == ["tenant.created"]


@pytest.mark.parametrize("name", ["", "Acme", "a/b", "a" * 64, "-a"])
async def test_bad_names_are_refused(ports: Ports, name: str) -> None:
    error = await refused(create(ports, name))
    assert isinstance(error, InvalidInput)
    assert error.fields["field"] == "name"


@pytest.mark.parametrize(
    ("quota", "field"),
    [
        ({"weight": -1.0}, "quota.weight"),
        ({"requests_per_s": -2.0}, "quota.requests_per_s"),
        ({"requests_per_s": float("nan")}, "quota.requests_per_s"),
        ({"model_bytes": (1 << 64) - 1}, "quota.model_bytes"),
        ({"trust_group": "No Good"}, "quota.trust_group"),
        ({"trust_policy": 0}, "quota.trust_policy"),
        ({"trust_policy": 99}, "quota.trust_policy"),
    ],
)
async def test_bad_quotas_are_refused(ports: Ports, quota: dict[str, Any], field: str) -> None:
    error = await refused(create(ports, **quota))
    assert isinstance(error, InvalidInput)
    assert error.fields["field"] == field


async def test_a_taken_name_is_refused_and_keeps_its_tenant(ports: Ports) -> None:
    made = await create(ports)
    assert isinstance(await refused(create(ports)), AlreadyExists)
    assert await ports.tenants.GetTenant(pb.GetTenantRequest(name="acme"), metadata=ADMIN) == made


async def test_set_quota_replaces_only_what_is_set(ports: Ports) -> None:
    await create(ports, requests_per_s=5.0, burst=3)
    request = pb.SetQuotaRequest(name="acme", quota=pb.Quota(burst=0, trust_policy=pb.TRUST_POLICY_SHARED))
    changed = await ports.tenants.SetQuota(request, metadata=ADMIN)
    assert changed.quota.requests_per_s == 5.0
    assert not changed.quota.HasField("burst")
    assert changed.quota.trust_policy == pb.TRUST_POLICY_SHARED
    assert changed.rev == 1


async def test_suspend_and_resume(ports: Ports, world: World) -> None:
    await create(ports)
    for _ in range(2):
        suspended = await ports.tenants.SuspendTenant(pb.SuspendTenantRequest(name="acme"), metadata=ADMIN)
        assert suspended.state == pb.TENANT_STATE_SUSPENDED
    resumed = await ports.tenants.ResumeTenant(pb.ResumeTenantRequest(name="acme"), metadata=ADMIN)
    assert resumed.state == pb.TENANT_STATE_ACTIVE
    assert world.audit.names == ["tenant.created", "tenant.suspended", "tenant.resumed"]


@pytest.mark.parametrize(
    ("method", "request_"),
    [
        ("GetTenant", pb.GetTenantRequest(name="nobody")),
        ("SuspendTenant", pb.SuspendTenantRequest(name="nobody")),
        ("ResumeTenant", pb.ResumeTenantRequest(name="nobody")),
        ("DeleteTenant", pb.DeleteTenantRequest(name="nobody")),
        ("SetQuota", pb.SetQuotaRequest(name="nobody")),
        ("IssueKey", pb.IssueKeyRequest(tenant="nobody")),
        ("ListKeys", pb.ListKeysRequest(tenant="nobody")),
        ("RevokeKey", pb.RevokeKeyRequest(tenant="nobody", id="x")),
    ],
)
async def test_unknown_tenants_are_not_found(ports: Ports, method: str, request_: Any) -> None:
    error = await refused(getattr(ports.tenants, method)(request_, metadata=ADMIN))
    assert isinstance(error, NotFound)
    assert "tenants list" in error.message


async def test_a_key_is_shown_once_and_stored_as_a_digest(ports: Ports, world: World) -> None:
    await create(ports)
    issued = await issue(ports)
    parsed = parse_key(issued.secret)
    assert parsed is not None
    stored = world.catalog.key(issued.key.id)
    assert stored is not None
    assert verify_key(parsed, stored)
    assert parsed.secret not in repr(await world.store.load()).encode()
    listed = await ports.tenants.ListKeys(pb.ListKeysRequest(tenant="acme"), metadata=ADMIN)
    assert issued.secret not in str(listed)
    assert issued.secret not in str(world.audit.events)


async def test_two_live_keys_at_most(ports: Ports, world: World) -> None:
    await create(ports)
    first = await issue(ports, lifetime_s=61)
    world.clock.advance(1)
    await issue(ports)
    error = await refused(issue(ports))
    assert isinstance(error, NotReady)
    assert f"keys revoke acme {first.key.id}" in error.message
    world.clock.advance(60)
    third = await issue(ports)
    assert isinstance(await refused(issue(ports)), NotReady)
    request = pb.RevokeKeyRequest(tenant="acme", id=third.key.id)
    revoked = await ports.tenants.RevokeKey(request, metadata=ADMIN)
    assert revoked.HasField("revoked_at")
    assert await ports.tenants.RevokeKey(request, metadata=ADMIN) == revoked
    await issue(ports)
    shown = await ports.tenants.GetTenant(pb.GetTenantRequest(name="acme"), metadata=ADMIN)
    assert shown.live_keys == 2


async def test_keys_of_others_cannot_be_revoked(ports: Ports) -> None:
    await create(ports)
    await create(ports, "globex")
    key = (await issue(ports)).key
    error = await refused(ports.tenants.RevokeKey(pb.RevokeKeyRequest(tenant="globex", id=key.id), metadata=ADMIN))
    assert isinstance(error, NotFound)


async def test_a_lifetime_beyond_reason_is_refused(ports: Ports) -> None:
    await create(ports)
    error = await refused(issue(ports, lifetime_s=1 << 62))
    assert isinstance(error, InvalidInput)
    assert error.fields["field"] == "lifetime_s"


async def test_what_cannot_be_audited_is_not_done(ports: Ports, world: World) -> None:
    await create(ports)
    world.audit.full = True
    for call in (issue(ports), create(ports, "globex")):
        assert isinstance(await refused(call), Unavailable)
    assert world.catalog.tenant_by_name("globex") is None
    assert world.catalog.keys(next(iter(world.catalog.tenants())).id) == []


async def test_a_store_that_is_away_is_unavailable_and_reads_go_on(ports: Ports, world: World) -> None:
    made = await create(ports)
    world.store.fail()
    error = await refused(issue(ports))
    assert (type(error), error.reason) == (Unavailable, Reason.STORE_UNAVAILABLE)
    assert error.retry_after_s is not None
    assert await ports.tenants.GetTenant(pb.GetTenantRequest(name="acme"), metadata=ADMIN) == made


async def test_key_use_is_written_once_a_minute(ports: Ports, world: World) -> None:
    await create(ports)
    key_id = (await issue(ports)).key.id
    use = KeyUse(world.control)
    seen = []
    for seconds in (0, 30, 30):
        world.clock.advance(seconds)
        use.note(key_id)
        use.note("unknown")
        await use.write()
        stored = world.catalog.key(key_id)
        assert stored is not None
        seen.append((stored.last_used_at, stored.rev))
    assert [rev for _, rev in seen] == [1, 1, 2]
    assert seen[2][0] == world.clock.now()


async def test_pushes_of_a_tenant_show_in_its_view(ports: Ports) -> None:
    await create(ports)
    await push(ports, "acme", "bert", {"w.safetensors": b"x" * 77})
    shown = await ports.tenants.GetTenant(pb.GetTenantRequest(name="acme"), metadata=ADMIN)
    assert (shown.models, shown.model_bytes_used) == (1, 77)
