"""The life of versions after their push, through the wire: promotion, residency, explanations, deletion."""

from __future__ import annotations

from dataclasses import replace

from control_world import ADMIN, Ports, World, admin_port, push, refused
from push_support import begin, call

from partywall.domain.fleet import Partition, PartitionKind
from partywall.domain.models import VersionState
from partywall.domain.placements import Alternative, Decision, Placement
from partywall.errors import (
    NotFound,
    NotReady,
)
from partywall.v1 import fleet_pb2, tenants_pb2
from partywall.v1 import models_pb2 as pb
from router.control.views import NoFleet, explanation


async def ready(world: World, number: int) -> None:
    entry = world.catalog.models()[0]
    async with world.catalog.transaction() as tx:
        await tx.update(replace(entry.versions[number], state=VersionState.READY))


def resident(world: World) -> list[int]:
    return [number for number, version in world.catalog.models()[0].versions.items() if version.resident]


async def test_promote_and_roll_back(ports: Ports, world: World) -> None:
    for _ in range(2):
        await push(ports, "acme", "bert")
    await ready(world, 1)
    promoted = await call(ports, "PromoteVersion", name="bert", version=2)
    assert (promoted.live_version, promoted.previous_version) == (2, 1)
    assert await call(ports, "PromoteVersion", name="bert", version=2) == promoted
    await call(ports, "SetResidency", name="bert", version=1, resident=False)
    back = await call(ports, "RollbackModel", name="bert")
    assert (back.live_version, back.previous_version) == (1, 2)
    assert back.versions[0].state == pb.VERSION_STATE_PENDING
    assert resident(world) == [1, 2]


async def test_a_promotion_over_a_failed_one_keeps_the_version_that_works(ports: Ports, world: World) -> None:
    for _ in range(3):
        await push(ports, "acme", "bert")
    await ready(world, 1)
    await call(ports, "PromoteVersion", name="bert", version=2)
    promoted = await call(ports, "PromoteVersion", name="bert", version=3)
    assert (promoted.live_version, promoted.previous_version) == (3, 1)
    assert resident(world) == [1, 3]


async def test_a_superseded_previous_version_is_released(ports: Ports, world: World) -> None:
    for number in (1, 2, 3):
        await push(ports, "acme", "bert", promote=True)
        await ready(world, number)
    assert resident(world) == [2, 3]


async def test_nothing_to_roll_back_to(ports: Ports) -> None:
    await push(ports, "acme", "bert")
    assert isinstance(await refused(call(ports, "RollbackModel", name="bert")), NotReady)
    error = await refused(call(ports, "PromoteVersion", name="bert", version=9))
    assert isinstance(error, NotFound)
    assert "it has 1" in error.message


async def test_residency_of_the_live_version(ports: Ports, world: World) -> None:
    await push(ports, "acme", "bert")
    released = await call(ports, "SetResidency", name="bert", resident=False)
    assert released.versions[0].state == pb.VERSION_STATE_STORED
    again = await call(ports, "SetResidency", name="bert", resident=True)
    assert again.versions[0].state == pb.VERSION_STATE_PENDING
    before = world.catalog.revision
    await call(ports, "SetResidency", name="bert", resident=True)
    assert world.catalog.revision == before


async def test_a_failed_version_gets_another_try(ports: Ports, world: World) -> None:
    await push(ports, "acme", "bert")
    entry = world.catalog.models()[0]
    async with world.catalog.transaction() as tx:
        await tx.update(replace(entry.versions[1], state=VersionState.FAILED, reason="no memory"))
    released = await call(ports, "SetResidency", name="bert", resident=False)
    assert (released.versions[0].state, released.versions[0].reason) == (pb.VERSION_STATE_FAILED, "no memory")
    again = await call(ports, "SetResidency", name="bert", resident=True)
    assert (again.versions[0].state, again.versions[0].reason) == (pb.VERSION_STATE_PENDING, "")


async def place(world: World, number: int = 1) -> Placement:
    model = world.catalog.models()[0].model
    partition = Partition("c0", PartitionKind.CPUSET, "cpu", (0,))
    made = Placement("p1", model.tenant_id, model.id, number, "n1", partition, "w1", 99, 1, "it fits")
    async with world.catalog.transaction() as tx:
        await tx.insert(made)
        alternatives = (Alternative("n1", True, "fits", 1.5), Alternative("n2", False, "full"))
        await tx.insert(
            Decision("e1", "placement", model.id, "placed on n1", world.clock.now(), alternatives, {"a": "b"})
        )
    return made


async def test_explain_shows_placements_and_decisions(ports: Ports, world: World) -> None:
    await push(ports, "acme", "bert")
    await place(world)
    told = await call(ports, "ExplainModel", name="bert")
    assert told.model.name == "bert"
    assert [(one.kind, one.subject) for one in told.decisions] == [("waiting", "bert"), ("placement", "bert")]
    assert told.decisions[0].summary == "version 1 is not ready yet on n1, cpuset c0: it fits"
    assert [(a.choice, a.chosen) for a in told.decisions[1].alternatives] == [("n1", True), ("n2", False)]
    fleet = NoFleet(replicas=[fleet_pb2.Replica(placement_id="p1", state=fleet_pb2.REPLICA_STATE_READY)])
    tenant = world.catalog.tenant_by_name("acme")
    assert tenant is not None
    later = explanation(world.catalog, world.catalog.models()[0], tenant, fleet, world.clock.now())
    assert (later.decisions[0].kind, later.decisions[0].summary) == (
        "standing",
        "version 1 stands on n1, cpuset c0: it fits",
    )


async def test_ready_replicas_are_counted(world: World) -> None:
    states = (fleet_pb2.REPLICA_STATE_READY, fleet_pb2.REPLICA_STATE_READY, fleet_pb2.REPLICA_STATE_FAILED)
    world.fleet = NoFleet(
        replicas=[fleet_pb2.Replica(tenant="acme", model="bert", version=1, state=state) for state in states]
    )
    async with admin_port(world) as ports:
        await ports.tenants.CreateTenant(tenants_pb2.CreateTenantRequest(name="acme"), metadata=ADMIN)
        await push(ports, "acme", "bert")
        shown = await call(ports, "GetModel", name="bert")
    assert [one.replicas_ready for one in shown.versions] == [2]


async def test_deleting_a_model_removes_rows_keys_and_blobs(ports: Ports, world: World) -> None:
    await push(ports, "acme", "bert")
    await push(ports, "acme", "bert")
    await begin(ports)
    artifact = world.catalog.models()[0].versions[1].artifact_id
    await place(world)
    sealed = sum(version.sealed_bytes for version in world.catalog.models()[0].versions.values())
    removed = await call(ports, "DeleteModel", name="bert")
    assert (removed.versions_removed, removed.blob_bytes_removed) == (2, sealed)
    tenant = world.catalog.tenant_by_name("acme")
    assert tenant is not None
    left = [world.catalog.models(), world.catalog.placements(), world.catalog.data_keys(tenant.id)]
    assert [*left, world.catalog.uploads(), world.catalog.garbage()] == [[]] * 5
    assert await world.blobs.delete(artifact) == 0
    assert isinstance(await refused(call(ports, "DeleteModel", name="bert")), NotFound)


async def test_one_version_goes_alone_unless_it_is_live(ports: Ports, world: World) -> None:
    for _ in range(3):
        await push(ports, "acme", "bert")
    await call(ports, "PromoteVersion", name="bert", version=2)
    assert isinstance(await refused(call(ports, "DeleteModel", name="bert", version=2)), NotReady)
    assert isinstance(await refused(call(ports, "DeleteModel", name="bert", version=9)), NotFound)
    await call(ports, "DeleteModel", name="bert", version=1)
    left = await call(ports, "GetModel", name="bert")
    assert ([one.version for one in left.versions], left.live_version, left.previous_version) == ([2, 3], 2, 0)


async def test_suspended_tenants_keep_their_models(ports: Ports) -> None:
    await push(ports, "acme", "bert")
    await ports.tenants.SuspendTenant(tenants_pb2.SuspendTenantRequest(name="acme"), metadata=ADMIN)
    assert len((await call(ports, "ListModels")).models) == 1
