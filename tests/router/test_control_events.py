"""Events of nodes, and what a fenced device means for those who stand on it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fleet_world import FleetWorld, cpu
from prometheus_client import CollectorRegistry

from partywall.errors import NotReady, Unavailable
from partywall.v1 import agent_link_pb2 as link
from partywall.wire import convert
from router.control.events import HELD, EventLog
from router.control.partitions import Change, Partitions


def event(number: int = 0, kind: str = "device_fault") -> link.AgentEvent:
    return link.AgentEvent(kind=kind, device_id="GPU-1", code=31, message=f"number {number}")


async def test_events_are_counted_and_stored_newest_first() -> None:
    world = await FleetWorld().start()
    registry = CollectorRegistry()
    log = EventLog(world.catalog, world.clock, registry)
    log.note("n1", event(1))
    world.clock.advance(1.0)
    log.note("n1", event(2, "something_new"))
    await log.write()
    assert [(e.message, e.node, e.code) for e in world.catalog.events()] == [
        ("number 2", "n1", 31),
        ("number 1", "n1", 31),
    ]
    assert registry.get_sample_value("partywall_events_total", {"kind": "device_fault", "node": "n1"}) == 1
    assert registry.get_sample_value("partywall_events_total", {"kind": "other", "node": "n1"}) == 1
    await log.write()
    assert len(world.catalog.events()) == 2


async def test_events_wait_while_the_store_is_away() -> None:
    world = await FleetWorld().start()
    log = EventLog(world.catalog, world.clock)
    for number in range(HELD + 5):
        log.note("n1", event(number))
    away = world.catalog.transaction
    world.catalog.transaction = lambda: (_ for _ in ()).throw(Unavailable("away"))  # type: ignore[method-assign]
    with pytest.raises(Unavailable):
        await log.write()
    world.catalog.transaction = away  # type: ignore[method-assign]
    await log.write()
    messages = {e.message for e in world.catalog.events()}
    assert messages == {f"number {n}" for n in range(5, HELD + 5)}


def fence(world: FleetWorld, node: str, why: str) -> None:
    agent = world.agents[node]
    devices = [convert.device_to_proto(replace(d, fenced=why)) for d in agent.devices]
    world.membership.observe(agent.session, link.AgentFrame(devices=devices))


async def test_a_fenced_device_takes_nothing_new_and_gives_up_what_it_has() -> None:
    world = await FleetWorld().start()
    world.join("n1", cpu())
    await world.model("acme", "bert")
    await world.passes(2)
    fence(world, "n1", "Xid 48")
    await world.passes(2)
    assert world.placement("bert").node == "n1"
    await world.model("acme", "vit")
    await world.passes(2)
    assert world.placements("vit") == []
    entry = world.catalog.model_by_id("vit")
    assert entry is not None
    assert "fenced: Xid 48" in entry.versions[1].reason
    partitions = Partitions(world.reconciler.scene, world.reconciler.manoeuvres)
    with pytest.raises(NotReady, match="is fenced"):
        await partitions.change("acme/bert", Change(cores=2), dry_run=True)
    world.join("n2", cpu())
    for _ in range(40):
        await world.passes(each_s=0.2)
        assert sum(world.serving("bert").values()) == 100
    assert {world.placement("bert").node, world.placement("vit").node} == {"n2"}
    assert any("fenced" in d.summary for d in world.catalog.decisions("bert"))
