"""The live planner with the reconcile loop, on a virtual clock: replicas come with the load and go with it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from fleet_world import FleetWorld, cpu

from partywall.domain.fleet import ReplicaState, ReplicaStatus
from partywall.domain.placements import Decision
from router.control.plan_views import preview_view
from router.control.planning import LivePlanner
from router.policy.placement import NoPlace
from router.policy.scaling import ScalingLimits
from router.policy.triggers import TriggerSettings

SERVICE_S = 0.01


@dataclass
class Tally:
    asked: int = 0
    met: int = 0


class Load:
    """One model under load: each ready replica serves 90 requests a second in time, what is more comes late."""

    def __init__(
        self, world: FleetWorld, *, most: int = 4, hold_s: float = 30.0, apply: bool = True, idle_s: float = 0.0
    ) -> None:
        self.world = world
        self.tally = Tally()
        self.rng = np.random.default_rng(11)
        limits = ScalingLimits(most=most, triggers=TriggerSettings(hold_s=hold_s))
        self.planner = LivePlanner(
            world.reconciler.scene,
            lambda *version: self.tally,
            limits,
            world.reconciler.kick,
            apply=apply,
            idle_s=idle_s,
        )
        self.unserved = 0

    async def run(self, seconds: int, rate: float, model: str = "bert") -> None:
        for _ in range(seconds):
            arrivals = int(self.rng.binomial(1000, rate / 1000))
            serving = self.world.route(model).replicas
            self.unserved += not serving
            for replica in serving:
                replica.service.observe(1, SERVICE_S, self.world.clock.monotonic())
            self.tally.asked += arrivals
            self.tally.met += min(arrivals, 90 * len(serving))
            await self.planner.look()
            await self.world.passes(each_s=1.0)

    def decisions(self, kind: str = "scale") -> list[Decision]:
        return [d for d in self.world.catalog.decisions("bert") if d.kind == kind]


@pytest.fixture
async def world() -> FleetWorld:
    made = await FleetWorld().start()
    made.join("n1", cpu(2))
    made.join("n2", cpu(2))
    await made.model("acme", "bert")
    await made.passes(3)
    return made


async def test_load_rises_and_falls_and_nobody_is_without_a_replica(world: FleetWorld) -> None:
    load = Load(world)
    await load.run(60, 10)
    assert load.decisions() == []
    await load.run(60, 150)
    standing = world.placements("bert")
    assert {p.node for p in standing} == {"n1", "n2"}
    assert len(world.route("bert").replicas) == 2
    up = load.decisions()[-1]
    assert up.summary.startswith("from 1 to 2 replica(s)")
    assert float(up.inputs["rate_bound_per_s"]) > 30
    assert [a.chosen for a in up.alternatives].count(True) == 1
    # The third would need ground that nobody has: it is said once.
    blocked = [d for d in load.decisions() if "but no device" in d.summary]
    assert len(blocked) <= 1
    await load.run(600, 10)
    assert len(world.placements("bert")) == 1
    assert "from 2 to 1" in load.decisions()[0].summary
    assert "gives up its replica" in load.decisions("placement")[0].summary
    assert load.unserved == 0


async def test_steady_load_changes_nothing_more(world: FleetWorld) -> None:
    load = Load(world)
    await load.run(240, 60)
    changes = len([d for d in load.decisions() if d.summary.startswith("from")])
    await load.run(1200, 60)
    assert len([d for d in load.decisions() if d.summary.startswith("from")]) == changes <= 1


async def test_a_small_machine_with_one_tenant_is_left_alone() -> None:
    world = await FleetWorld().start()
    world.join("local", cpu(2))
    await world.model("acme", "bert")
    await world.passes(3)
    load = Load(world)
    await load.run(90, 300)
    assert len(world.placements("bert")) == 1
    (said,) = load.decisions()
    assert "stays at 1 replica(s)" in said.summary
    assert "spare" in said.summary


async def test_switched_off_it_only_previews(world: FleetWorld) -> None:
    load = Load(world, apply=False)
    await load.run(60, 150)
    assert load.decisions() == []
    assert len(world.placements("bert")) == 1
    (step,) = load.planner.preview()
    assert (step.action, step.now, step.verdict.replicas) == ("add", 1, 2)
    assert step.place.startswith("n2/cpu")
    shown = preview_view(world.catalog, [step], enabled=False)
    assert (shown.replicas_now, shown.replicas_planned, shown.enabled) == (1, 2, False)
    assert shown.steps[0].tenant == "acme"
    assert 0 < shown.steps[0].expected_attainment <= 1
    assert load.planner.preview()[0].verdict == step.verdict


async def test_the_operators_bound_and_a_lost_node(world: FleetWorld) -> None:
    load = Load(world, most=1)
    await load.run(60, 150)
    assert len(world.placements("bert")) == 1
    load = Load(world)
    await load.run(60, 150)
    assert len(world.placements("bert")) == 2
    world.leave("n2")
    await load.run(30, 150)
    assert [p.node for p in world.placements("bert")] == ["n1"]
    assert any("leaves n2: its node stays away" in d.summary for d in load.decisions("placement"))
    world.join("n2", cpu(2))
    await load.run(5, 150)
    assert {p.node for p in world.placements("bert")} == {"n1", "n2"}
    assert load.unserved == 0


async def test_a_replica_goes_only_while_another_serves(world: FleetWorld) -> None:
    load = Load(world)
    await load.run(60, 150)
    first, second = world.placements("bert")
    world.agents[first.node].says[first.id] = ReplicaStatus(first.id, ReplicaState.STARTING, reason="died")
    await load.run(900, 5)
    assert [p.id for p in world.placements("bert")] == [second.id]
    assert load.unserved == 0


async def test_another_live_version_counts_from_zero(world: FleetWorld) -> None:
    load = Load(world)
    load.tally.asked = load.tally.met = 10**6
    await load.run(10, 0)
    assert load.planner.preview()[0].verdict.rate_per_s == 0


async def test_no_place_names_no_neighbour(world: FleetWorld) -> None:
    from router.control.passes.replicas import find_place

    await world.model("globex", "vit", share=100)
    await world.passes(2)
    entry = world.catalog.model_by_id("bert")
    assert entry is not None
    answer = find_place(world.reconciler.scene, entry, entry.versions[1])
    assert isinstance(answer, NoPlace) or answer.node in ("n1", "n2")


async def test_a_version_that_a_request_would_wake_gives_its_place_up_when_idle(world: FleetWorld) -> None:
    load = Load(world, idle_s=20.0)
    await load.run(60, 0)
    assert len(world.placements("bert")) == 1
    entry = world.catalog.model_by_id("bert")
    assert entry is not None
    version = entry.versions[1]
    async with world.catalog.transaction() as tx:
        await tx.update(replace(version, manifest=replace(version.manifest, cold_start=True)))
    await load.run(15, 0)
    await load.run(5, 5)
    await load.run(15, 0)
    assert len(world.placements("bert")) == 1
    for _ in range(10):
        await load.planner.look()
        await world.passes(each_s=1.0)
    assert world.placements("bert") == []
    assert "no request for 20 s" in load.decisions("swap")[0].summary
