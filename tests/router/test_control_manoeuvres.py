"""Replace, shift, drain."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fleet_world import GIB, FleetWorld, cpu

from partywall.domain.fleet import ReplicaState, ReplicaStatus
from partywall.domain.placements import Decision, Placement
from partywall.domain.tenants import TrustPolicy
from partywall.errors import NotReady
from router.control.scene import new_id, want_of
from router.policy.placement import Chosen, place


@pytest.fixture
async def world() -> FleetWorld:
    made = await FleetWorld().start()
    made.join("n1", cpu())
    await made.model("acme", "bert")
    await made.passes(2)
    return made


def somewhere(world: FleetWorld, old: Placement) -> Chosen:
    tenant, entry = world.catalog.tenant(old.tenant_id), world.catalog.model_by_id(old.model_id)
    assert tenant is not None
    assert entry is not None
    scene = world.reconciler.scene
    want = want_of(tenant, entry, entry.versions[old.version])
    answer = place(want, scene.nodes(), scene.standings(), scene.operator, new_id, leaving={old.id})
    assert isinstance(answer, Chosen)
    return answer


async def begin(world: FleetWorld, model: str = "bert") -> tuple[Placement, Placement, Decision]:
    old = world.placement(model)
    decision = await world.reconciler.manoeuvres.start(old, somewhere(world, old), "a test wants it")
    return old, world.placements(model)[-1], decision


async def test_traffic_moves_by_weight_and_nobody_is_ever_without_a_replica(world: FleetWorld) -> None:
    old, new, decision = await begin(world)
    assert (new.replaces, new.weight) == (old.id, 0.0)
    assert decision.kind == "manoeuvre"
    assert "a test wants it" in decision.summary
    assert decision.inputs["old_placement"] == old.id
    assert decision.inputs["new_placement"] == new.id
    shares = []
    for _ in range(40):
        await world.passes(each_s=0.2)
        counts = world.serving("bert")
        assert sum(counts.values()) == 100
        shares.append(counts.get(new.id, 0))
        if len(world.placements("bert")) == 1:
            break
    assert shares == sorted(shares)
    assert {10, 25, 50, 100} <= set(shares)
    left = world.placement("bert")
    assert (left.id, left.replaces, left.weight) == (new.id, "", 1.0)
    assert "has moved from" in world.catalog.decisions("bert")[0].summary


async def test_the_old_replica_stands_until_it_is_idle(world: FleetWorld) -> None:
    old, new, _ = await begin(world)
    replica = world.membership.replicas_by_id[old.id]
    replica.outstanding_requests = 1
    await world.passes(30)
    assert [p.id for p in world.placements("bert")] == [old.id, new.id]
    assert world.serving("bert") == {new.id: 100}
    replica.outstanding_requests = 0
    await world.passes(2)
    assert world.placement("bert").id == new.id


async def test_the_old_replica_stands_while_another_router_process_has_a_request_there(world: FleetWorld) -> None:
    old, new, _ = await begin(world)
    world.agents["n1"].busy.add(old.id)
    await world.passes(30)
    assert [p.id for p in world.placements("bert")] == [old.id, new.id]
    world.agents["n1"].busy.clear()
    await world.passes(2)
    assert world.placement("bert").id == new.id


async def test_an_agents_word_from_before_the_shift_does_not_count(world: FleetWorld) -> None:
    _, new, _ = await begin(world)
    agent = world.agents["n1"]
    while world.placements("bert")[-1].weight < 1.0:
        await world.passes(each_s=0.2)
    for _ in range(20):
        await world.reconciler.reconcile()
        world.clock.advance(0.3)
    assert len(world.placements("bert")) == 2
    agent.report(world.catalog.placements(), world.membership)
    await world.reconciler.reconcile()
    assert world.placement("bert").id == new.id


async def test_an_old_replica_that_stays_busy_is_left_to_its_agents_drain(world: FleetWorld) -> None:
    old, new, _ = await begin(world)
    world.membership.replicas_by_id[old.id].outstanding_requests = 1
    await world.passes(30)
    await world.passes(2, each_s=61.0)
    assert world.placement("bert").id == new.id


async def test_a_replica_that_does_not_come_up_changes_nothing(world: FleetWorld) -> None:
    world.agents["n1"].fail_new = "the weights do not fit"
    old, _, _ = await begin(world)
    await world.passes(3)
    assert world.placement("bert").id == old.id
    assert world.serving("bert") == {old.id: 100}
    said = world.catalog.decisions("bert")[0]
    assert said.kind == "manoeuvre"
    assert "the weights do not fit" in said.summary


async def test_one_that_keeps_failing_is_given_up(world: FleetWorld) -> None:
    old, new, _ = await begin(world)
    world.agents["n1"].says[new.id] = ReplicaStatus(new.id, ReplicaState.STARTING, reason="killed by SIGKILL")
    await world.passes(3)
    assert len(world.placements("bert")) == 2
    await world.passes(2, each_s=11.0)
    assert world.placement("bert").id == old.id


async def test_one_that_never_gets_ready_is_given_up(world: FleetWorld) -> None:
    old, new, _ = await begin(world)
    world.agents["n1"].says[new.id] = ReplicaStatus(new.id, ReplicaState.LOADING)
    await world.passes(3, each_s=100.0)
    assert len(world.placements("bert")) == 2
    await world.passes(5, each_s=100.0)
    assert world.placement("bert").id == old.id
    assert "not ready after" in world.catalog.decisions("bert")[0].summary


async def test_a_dead_old_replica_is_replaced_at_once(world: FleetWorld) -> None:
    old, new, _ = await begin(world)
    world.agents["n1"].says[old.id] = ReplicaStatus(old.id, ReplicaState.STARTING, reason="died")
    await world.passes(3)
    assert world.placement("bert").id == new.id


async def test_only_one_manoeuvre_at_a_time(world: FleetWorld) -> None:
    old, new, _ = await begin(world)
    for one in (old, new):
        with pytest.raises(NotReady, match="already"):
            await world.reconciler.manoeuvres.start(one, somewhere(world, one), "again")


@pytest.mark.parametrize("passes", range(0, 24, 2))
async def test_a_restart_of_the_router_at_any_point_converges(world: FleetWorld, passes: int) -> None:
    _, new, _ = await begin(world)
    await world.passes(passes)
    await world.start()
    for _ in range(40):
        await world.passes(each_s=0.2)
        assert sum(world.serving("bert").values()) == 100
    assert world.placement("bert").id == new.id


async def test_a_lost_node_ends_the_manoeuvre_either_way(world: FleetWorld) -> None:
    world.join("n2", cpu())
    await world.passes()
    old, new, _ = await begin(world)
    gone = new.node if new.node != old.node else old.node
    world.leave(gone)
    await world.passes(3, each_s=6.0)
    assert len(world.placements("bert")) == 1
    assert world.placement("bert").node in world.agents
    assert world.placement("bert").replaces == ""


async def test_a_released_version_takes_both_away(world: FleetWorld) -> None:
    await begin(world)
    entry = world.catalog.model_by_id("bert")
    assert entry is not None
    async with world.catalog.transaction() as tx:
        await tx.update(replace(entry.versions[1], resident=False))
    await world.passes()
    assert world.placements("bert") == []


async def test_a_stricter_policy_moves_without_a_gap() -> None:
    world = await FleetWorld().start()
    world.join("n1", cpu(2))
    await world.model("acme", "bert")
    await world.model("zeta", "gpt")
    await world.passes(2)
    assert world.placement("gpt").node == world.placement("bert").node
    world.join("n3", cpu(2))
    await world.change("zeta", TrustPolicy.EXCLUSIVE)
    for _ in range(40):
        await world.passes(each_s=0.2)
        assert sum(world.serving("gpt").values()) == 100
    assert world.placement("gpt").node == "n3"
    assert any("trust" in one.summary and one.kind == "manoeuvre" for one in world.catalog.decisions("gpt"))


async def test_without_another_place_trust_goes_before_service() -> None:
    world = await FleetWorld().start()
    world.join("n1", cpu(2))
    await world.model("acme", "bert")
    await world.model("zeta", "gpt")
    await world.passes(2)
    await world.change("zeta", TrustPolicy.EXCLUSIVE)
    await world.passes(2)
    assert world.placements("gpt") == []
    entry = world.catalog.model_by_id("gpt")
    assert entry is not None
    assert "trust" in entry.versions[1].reason


async def test_memory_must_be_there_for_both(world: FleetWorld) -> None:
    for number in range(7):
        await world.model("acme", f"m{number}")
    await world.passes(2)
    old = world.placement("bert")
    assert old.memory_bytes == GIB
    scene = world.reconciler.scene
    tenant, entry = world.catalog.tenant("acme"), world.catalog.model_by_id("bert")
    assert tenant is not None
    assert entry is not None
    answer = place(
        want_of(tenant, entry, entry.versions[1]), scene.nodes(), scene.standings(), scene.operator, new_id,
        leaving={old.id},
    )  # fmt: skip
    assert not isinstance(answer, Chosen)
