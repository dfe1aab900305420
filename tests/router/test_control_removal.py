"""Deleting a tenant: keys first, and whatever a crash left is finished by the next start."""

from __future__ import annotations

from pathlib import Path

import pytest
from control_world import ADMIN, Ports, World, admin_port, begin_request, push, refused

from isolation.vault.audit import MAX_ROW_BYTES, AuditLog, verify
from isolation.vault.keyfile import KeyFileProvider, create_root
from isolation.vault.local_blobs import LocalBlobStore
from partywall.clock import VirtualClock
from partywall.domain.tenants import Tenant, TenantState
from partywall.errors import DataLoss, NotFound, NotReady, Reason, Unavailable
from partywall.v1 import tenants_pb2 as pb
from router.control.catalog import Catalog
from router.control.control import Control
from router.control.housekeeping import Housekeeper, KeyUse
from router.control.kinds import Kind
from router.control.removal import Remover, Step, listed
from router.control.store import SqlStore


class Crash(Exception):
    """Stands for the end of the process."""


@pytest.fixture
async def ports(ports: Ports) -> Ports:
    """Both tenants have a key and a model, and acme has begun another one."""
    for name in ("acme", "globex"):
        await ports.tenants.IssueKey(pb.IssueKeyRequest(tenant=name), metadata=ADMIN)
        await push(ports, name, "bert")
    request = begin_request("other", {"w.safetensors": b"x"})
    await ports.models.BeginVersion(request, metadata=ports.as_tenant("acme"))
    return ports


def acme(world: World) -> Tenant:
    tenant = world.catalog.tenant_by_name("acme")
    assert tenant is not None
    return tenant


async def delete(ports: Ports, name: str = "acme") -> pb.DeleteTenantResponse:
    answer: pb.DeleteTenantResponse = await ports.tenants.DeleteTenant(
        pb.DeleteTenantRequest(name=name), metadata=ADMIN
    )
    return answer


async def assert_gone(world: World, tenant_id: str) -> None:
    """Nothing of acme is left anywhere, and all of globex is."""
    objects = (await world.store.load()).objects
    for kind, held in objects.items():
        assert tenant_id not in repr(held), kind
    assert [len(objects[kind]) for kind in (Kind.TENANT, Kind.API_KEY, Kind.MODEL, Kind.VERSION)] == [1, 1, 1, 1]
    assert not [change for change in await world.store.changes_since(0) if "bert" in change.key]
    assert [len(objects[kind]) for kind in (Kind.UPLOAD, Kind.GARBAGE, Kind.DELETION)] == [0, 0, 0]
    report = await world.blobs.sweep(set(), set(), -1.0)
    assert len(report.artifacts) == 1
    assert report.uploads == ()


async def test_delete_removes_everything_of_the_tenant(ports: Ports, world: World) -> None:
    tenant_id = acme(world).id
    version = world.catalog.models(tenant_id)[0].versions[1]
    record = world.catalog.data_key(version.key_record_id)
    assert record is not None
    answer = await delete(ports)
    assert (answer.keys_shredded, answer.versions_removed) == (1, 1)
    assert answer.blob_bytes_removed == version.sealed_bytes
    with pytest.raises(DataLoss) as caught:
        world.keys.unwrap(tenant_id, record.artifact_id, record.wrapped)
    assert caught.value.reason is Reason.KEYS_DESTROYED
    await assert_gone(world, tenant_id)
    assert world.audit.names[-3:] == ["tenant.deletion_begun", "keys.shredded", "tenant.deleted"]
    assert isinstance(await refused(delete(ports)), NotFound)


@pytest.mark.parametrize("by", ["restart", "second call"])
@pytest.mark.parametrize("step", Step)
async def test_a_crash_at_any_point_is_finished(ports: Ports, world: World, step: Step, by: str) -> None:
    tenant_id = acme(world).id

    def cut(reached: Step) -> None:
        if reached is step:
            raise Crash

    world.reached = cut
    with pytest.raises(Crash):
        await world.remover.delete_tenant("acme")
    world.reached = lambda _: None
    if by == "restart" or world.catalog.tenant(tenant_id) is None:
        await world.start()
        await world.remover.resume()
    else:
        await world.remover.delete_tenant("acme")
    await assert_gone(world, tenant_id)


async def test_the_door_is_closed_once_a_deletion_has_begun(ports: Ports, world: World) -> None:
    def cut(reached: Step) -> None:
        raise Crash

    world.reached = cut
    with pytest.raises(Crash):
        await world.remover.delete_tenant("acme")
    assert acme(world).state is TenantState.SUSPENDED
    calls = (
        ports.tenants.ResumeTenant(pb.ResumeTenantRequest(name="acme"), metadata=ADMIN),
        ports.tenants.IssueKey(pb.IssueKeyRequest(tenant="acme"), metadata=ADMIN),
        ports.models.BeginVersion(begin_request("m", {"a.json": b"x"}), metadata=ports.as_tenant("acme")),
    )
    for call in calls:
        assert isinstance(await refused(call), NotReady)


async def test_keys_are_destroyed_even_when_the_store_goes_away(ports: Ports, world: World) -> None:
    tenant_id = acme(world).id
    world.reached = lambda step: world.store.fail() if step is Step.INTENT_WRITTEN else None
    assert isinstance(await refused(delete(ports)), Unavailable)
    with pytest.raises(DataLoss):
        world.keys.new_data_key(tenant_id, "a")
    world.store.fail(False)
    world.reached = lambda step: None
    await delete(ports)
    await assert_gone(world, tenant_id)


async def test_an_intent_that_cannot_be_audited_changes_nothing(ports: Ports, world: World) -> None:
    tenant = acme(world)
    world.audit.full = True
    assert isinstance(await refused(delete(ports)), Unavailable)
    assert acme(world) == tenant
    world.keys.new_data_key(tenant.id, "a")


class StuckBlobs:
    """A disk that refuses to remove, in front of a real store."""

    def __init__(self, world: World) -> None:
        self._inner = world.blobs
        self.stuck = True

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)

    async def delete(self, artifact_id: str) -> int:
        if self.stuck:
            raise Unavailable("the disk answers with an error", reason=Reason.STORE_UNAVAILABLE)
        return await self._inner.delete(artifact_id)


async def test_bytes_that_cannot_be_removed_are_removed_later(ports: Ports, world: World) -> None:
    tenant_id = acme(world).id
    blobs = StuckBlobs(world)
    world.control = Control(world.catalog, world.keys, blobs, world.audit, world.clock)  # type: ignore[arg-type]
    remover = Remover(world.control)
    assert (await remover.delete_tenant("acme")).blob_bytes == 0
    assert len(world.catalog.garbage()) == 2
    blobs.stuck = False
    keeper = Housekeeper(world.control, world.store, remover, world.uploads, KeyUse(world.control))
    await keeper.round()
    await assert_gone(world, tenant_id)


async def test_housekeeping_goes_on_when_a_part_fails(ports: Ports, world: World) -> None:
    world.store.fail()
    keeper = Housekeeper(world.control, world.store, world.remover, world.uploads, KeyUse(world.control))
    await keeper.round()
    world.store.fail(False)
    await keeper.round()


async def test_a_backup_of_blobs_and_database_cannot_be_opened(tmp_path: Path) -> None:
    """The real sides: after a deletion, the copied database and files are worth nothing."""
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    create_root(data / "root.key")
    clock = VirtualClock()
    store = SqlStore.at(data / "state.db")
    await store.open()
    audit = AuditLog(data / "audit.log", clock)
    keys, blobs = KeyFileProvider(data / "root.key", data / "keys"), LocalBlobStore(data, clock)
    world = World(store=store, clock=clock, keys=keys, blobs=blobs, audit=audit)  # type: ignore[arg-type]
    await world.start()
    async with admin_port(world) as ports:
        await ports.tenants.CreateTenant(pb.CreateTenantRequest(name="acme"), metadata=ADMIN)
        await push(ports, "acme", "bert")
        version = world.catalog.models()[0].versions[1]
        tenant_id = acme(world).id
        for name in ("state.db", "state.db-wal"):
            (tmp_path / name).write_bytes((data / name).read_bytes())
        sealed = await blobs.read(version.artifact_id, version.files[0].name, 0, 1 << 20)
        await delete(ports)
    await store.close()
    audit.close()
    assert verify(data / "audit.log").first_break is None
    restored = SqlStore.at(tmp_path / "state.db")
    await restored.open()
    catalog = Catalog(restored)
    await catalog.open()
    record = catalog.data_key(version.key_record_id)
    assert record is not None
    assert sealed
    with pytest.raises(DataLoss) as caught:
        KeyFileProvider(data / "root.key", data / "keys").unwrap(tenant_id, record.artifact_id, record.wrapped)
    assert caught.value.reason is Reason.KEYS_DESTROYED
    left = (data / "state.db").read_bytes() + b"".join(p.read_bytes() for p in data.glob("state.db-*"))
    assert record.wrapped not in left
    await restored.close()


def test_an_audit_row_does_not_grow_with_the_versions() -> None:
    assert listed([1, 2, 3]) == "1,2,3"
    many = listed(range(1, 100_001))
    assert len(many) < MAX_ROW_BYTES / 2
    assert many.endswith("499,500,... (100000 in all)")
