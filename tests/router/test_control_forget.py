"""Forgotten nodes: their certificates count no longer, their placements go, and a new token lets them in again."""

from __future__ import annotations

import base64
import json
from datetime import UTC, timedelta

import pytest
from control_world import ADMIN, Ports, World, admin_port, push, refused
from join_world import bootstrap, enrol, link_port, now, who

from partywall.clock import VirtualClock
from partywall.domain.fleet import Node, Partition, PartitionKind
from partywall.domain.placements import Placement
from partywall.errors import NotFound, NotReady, PermissionDenied
from partywall.v1 import fleet_pb2, tenants_pb2
from partywall.v1 import fleet_pb2 as pb
from router.control.enrol import AgentIdentity
from router.control.views import NoFleet


@pytest.fixture
async def world() -> World:
    return await World(clock=VirtualClock(now())).start()


@pytest.fixture
def ports(empty_ports: Ports) -> Ports:
    return empty_ports


async def forget(ports: Ports, node: str) -> None:
    await ports.fleet.ForgetNode(pb.ForgetNodeRequest(node=node), metadata=ADMIN)


async def test_a_forgotten_node_needs_a_new_token(world: World, ports: Ports) -> None:
    agent = world.authority.agent("n1", now() - timedelta(hours=1))
    async with world.catalog.transaction() as tx:
        await tx.insert(Node("n1"))
    await forget(ports, "n1")
    # Certificates tell whole seconds.
    world.clock.advance(1)
    assert world.catalog.nodes() == []
    async with link_port(world, AgentIdentity(world.catalog)) as port:
        assert isinstance(await refused(who(port, world, agent)), PermissionDenied)
        assert isinstance(await refused(enrol(port, world, agent)), PermissionDenied)
        request = pb.CreateJoinTokenRequest(node="n1", lifetime_s=30)
        answer = await ports.fleet.CreateJoinToken(request, metadata=ADMIN)
        assert answer.expires_at.ToDatetime(UTC) == world.clock.now() + timedelta(seconds=30)
        bundle = json.loads(base64.urlsafe_b64decode(answer.bundle))
        assert isinstance(await refused(who(port, world, agent)), PermissionDenied)
        _, fresh = await enrol(port, world, bootstrap(bundle), token=bundle["token"])
        assert await who(port, world, fresh) == repr("n1")
        # Whoever kept the old certificate is not let in by the new one.
        assert isinstance(await refused(who(port, world, agent)), PermissionDenied)
        assert isinstance(await refused(enrol(port, world, agent)), PermissionDenied)
        await forget(ports, "n1")
        assert isinstance(await refused(who(port, world, fresh)), PermissionDenied)


async def test_forgetting_refuses_strangers_and_connected_nodes(world: World) -> None:
    world.fleet = NoFleet(nodes=[fleet_pb2.Node(name="here", state=fleet_pb2.NODE_STATE_ONLINE)], epoch=7)
    async with admin_port(world) as ports:
        assert isinstance(await refused(forget(ports, "here")), NotReady)
        assert isinstance(await refused(forget(ports, "nobody")), NotFound)
        async with world.catalog.transaction() as tx:
            await tx.insert(Node("away", version="1"))
        fleet = await ports.fleet.GetFleet(pb.GetFleetRequest(), metadata=ADMIN)
    assert [(node.name, node.state) for node in fleet.nodes] == [
        ("away", fleet_pb2.NODE_STATE_OFFLINE),
        ("here", fleet_pb2.NODE_STATE_ONLINE),
    ]
    assert fleet.epoch == 7


async def test_a_forgotten_nodes_placements_go(world: World, ports: Ports) -> None:
    await ports.tenants.CreateTenant(tenants_pb2.CreateTenantRequest(name="acme"), metadata=ADMIN)
    await push(ports, "acme", "bert")
    model = world.catalog.models()[0].model
    placement = Placement(
        "p1", model.tenant_id, model.id, 1, "n1", Partition("w", PartitionKind.WHOLE, "cpu"), "w1", 1, 1, "it fits"
    )
    async with world.catalog.transaction() as tx:
        await tx.insert(placement)
    fleet = await ports.fleet.GetFleet(pb.GetFleetRequest(), metadata=ADMIN)
    assert [(p.tenant, p.model, p.node, p.reason) for p in fleet.placements] == [("acme", "bert", "n1", "it fits")]
    await forget(ports, "n1")
    assert world.catalog.placements() == []
