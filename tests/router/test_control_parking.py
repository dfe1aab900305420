"""Weights of released versions: kept within a budget, brought back at once, given up for whoever needs the room."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fleet_world import GIB, FleetWorld, cpu

from partywall.domain.fleet import ReplicaState, ReplicaStatus
from partywall.domain.models import VersionState
from partywall.domain.tenants import TrustPolicy
from router.control.partition_views import outcome_view
from router.control.partitions import Change, Partitions


class SwapWorld(FleetWorld):
    """Agents that park: a parked placement stops and keeps its memory."""

    swap_bytes = 4 * GIB

    async def passes(self, count: int = 1, each_s: float = 0.3) -> None:
        for _ in range(count):
            for agent in self.agents.values():
                for one in self.catalog.placements():
                    if one.parked and one.node == agent.node:
                        agent.says.setdefault(one.id, ReplicaStatus(one.id, ReplicaState.STOPPED, memory_bytes=GIB))
                    elif agent.says.get(one.id, None) == ReplicaStatus(one.id, ReplicaState.STOPPED, memory_bytes=GIB):
                        del agent.says[one.id]
            await super().passes(1, each_s)

    async def wish(self, model: str, *, resident: bool) -> None:
        entry = self.catalog.model_by_id(model)
        assert entry is not None
        version = entry.versions[1]
        state = VersionState.PENDING if resident else VersionState.STORED
        async with self.catalog.transaction() as tx:
            await tx.update(replace(version, resident=resident, state=state))

    def swaps(self, model: str) -> list[str]:
        return [d.summary for d in self.catalog.decisions(model) if d.kind == "swap"]

    def state(self, model: str) -> VersionState:
        entry = self.catalog.model_by_id(model)
        assert entry is not None
        return entry.versions[1].state


@pytest.fixture
async def world() -> SwapWorld:
    made = SwapWorld()
    await made.start()
    made.join("n1", cpu())
    for name in ("bert", "gpt", "vit"):
        await made.model("acme", name)
    await made.passes(3)
    return made


async def test_a_released_version_parks_and_comes_back_in_its_worker(world: SwapWorld) -> None:
    before = world.placement("bert")
    await world.wish("bert", resident=False)
    await world.passes(3)
    parked = world.placement("bert")
    assert parked.parked
    assert (parked.id, parked.worker_id) == (before.id, before.worker_id)
    assert world.state("bert") is VersionState.STORED
    assert not world.route("bert").replicas
    await world.wish("bert", resident=True)
    await world.passes(3)
    assert world.placement("bert").worker_id == before.worker_id
    assert world.state("bert") is VersionState.READY
    assert len(world.route("bert").replicas) == 1
    assert ["comes back" in s for s in world.swaps("bert")] == [True, False]


async def test_without_a_budget_a_released_version_goes(world: SwapWorld) -> None:
    world.swap_bytes = 0
    await world.start()
    await world.passes(2)
    await world.wish("bert", resident=False)
    await world.passes(2)
    assert world.placements("bert") == []


async def test_the_least_recently_parked_goes_first(world: SwapWorld) -> None:
    world.swap_bytes = 3 * GIB // 2
    await world.start()
    await world.passes(2)
    for name in ("gpt", "bert"):
        await world.wish(name, resident=False)
        await world.passes(2)
    assert world.placement("bert").parked
    assert world.placements("gpt") == []
    assert "--swap-bytes" in world.swaps("gpt")[0]


async def test_whoever_needs_the_memory_gets_it(world: SwapWorld) -> None:
    for name in ("gpt", "bert"):
        await world.wish(name, resident=False)
        await world.passes(2)
    for number in range(6):
        await world.model("globex", f"m{number}")
    await world.passes(4)
    assert all(world.placement(f"m{n}").node == "n1" for n in range(6))
    assert len(world.placements("gpt") + world.placements("bert")) <= 1
    assert "its memory is needed" in world.swaps("gpt")[0]
    standing = sum(p.memory_bytes for p in world.catalog.placements())
    assert standing <= 8 * GIB


async def test_trust_goes_before_parked_weights(world: SwapWorld) -> None:
    for name in ("gpt", "vit", "bert"):
        await world.wish(name, resident=False)
    await world.passes(3)
    assert all(world.placement(name).parked for name in ("gpt", "vit", "bert"))
    await world.model("secret", "mine", trust_policy=TrustPolicy.EXCLUSIVE)
    await world.passes(3)
    assert world.placement("mine").node == "n1"
    assert [world.placements(name) for name in ("gpt", "vit", "bert")] == [[], [], []]
    assert "trust" in world.swaps("vit")[0]


async def test_tenants_that_share_workers_do_not_park(world: SwapWorld) -> None:
    await world.model("many", "both", trust_policy=TrustPolicy.SHARED)
    await world.passes(3)
    await world.wish("both", resident=False)
    await world.passes(2)
    assert world.placements("both") == []


@pytest.mark.parametrize("memory_bytes", [0])
async def test_weights_that_are_gone_are_not_waited_for(world: SwapWorld, memory_bytes: int) -> None:
    await world.wish("bert", resident=False)
    await world.passes(2)
    parked = world.placement("bert")
    world.agents["n1"].says[parked.id] = ReplicaStatus(parked.id, ReplicaState.STOPPED, memory_bytes=memory_bytes)
    await world.passes(3)
    assert world.placements("bert") == []
    assert "weights with it" in world.swaps("bert")[0]


async def test_parked_weights_do_not_hold_back_a_resize(world: SwapWorld) -> None:
    partitions = Partitions(world.reconciler.scene, world.reconciler.manoeuvres)
    await world.wish("bert", resident=False)
    await world.passes(2)
    before = world.placement("bert").partition
    assert before == world.placement("gpt").partition
    looked = outcome_view(
        world.reconciler.scene, await partitions.change("acme/gpt", Change(share_percent=50), dry_run=True)
    )
    assert looked.released == ["acme/bert:1"]
    assert world.placement("bert").parked
    await partitions.change("acme/gpt", Change(share_percent=50), dry_run=False)
    assert world.placements("bert") == []
    assert "parked weights are released: their partition moves" in world.swaps("bert")[0]
    for _ in range(40):
        await world.passes(each_s=0.2)
    assert before.id not in {p.partition.id for p in world.catalog.placements()}
    await world.wish("bert", resident=True)
    await world.passes(3)
    assert world.placement("bert").partition == world.placement("gpt").partition
    assert len(world.route("bert").replicas) == 1


async def test_parked_weights_stay_where_somebody_else_stays(world: SwapWorld) -> None:
    await world.wish("bert", resident=False)
    await world.passes(2)
    manoeuvres = world.reconciler.manoeuvres
    assert manoeuvres.left_behind([world.placement("gpt")]) == []
    both = [world.placement("gpt"), world.placement("vit")]
    assert [p.model_id for p in manoeuvres.left_behind(both)] == ["bert"]


async def test_a_lost_node_takes_its_parked_weights_along(world: SwapWorld) -> None:
    await world.wish("bert", resident=False)
    await world.passes(2)
    world.leave("n1")
    await world.passes(4, each_s=6.0)
    assert world.placements("bert") == []


async def test_a_restart_of_the_router_keeps_them(world: SwapWorld) -> None:
    await world.wish("bert", resident=False)
    await world.passes(2)
    await world.start()
    await world.passes(3)
    assert world.placement("bert").parked
