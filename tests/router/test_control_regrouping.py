"""Moves apart and together in the router: carried out without a gap, recorded with their inputs, shown before."""

from __future__ import annotations

import pytest
from fleet_world import FleetWorld
from sharing_world import Table, gpu

from partywall.domain.placements import Decision
from router.control.plan_views import preview_view
from router.control.planning import LivePlanner
from router.control.regrouping import Regrouping
from router.policy.regroup import Regrouper, RegroupLimits
from router.policy.scaling import ScalingLimits
from router.policy.sharing_words import Work


class Known(Table):
    """A table, and how busy each model is by what was seen; nothing is feared beyond that."""

    def __init__(self, **traffic: float) -> None:
        super().__init__(frozenset({"h1", "h2"}), frozenset({"l1", "l2"}))
        self.traffic = traffic
        self.models: dict[str, str] = {}
        self.newcomer = 0.0

    def work(self, placement_id: str, objective_ms: int) -> Work:
        return self.seen(placement_id, objective_ms) if placement_id else Work(objective_ms / 1e3, busy=self.newcomer)

    def seen(self, placement_id: str, objective_ms: int) -> Work:
        return Work(objective_ms / 1e3, busy=self.traffic.get(self.models.get(placement_id, ""), 0.0))

    def observed(self, placement_id: str) -> float:
        return 0.0


class City:
    """Two nodes with a GPU each, and a planner that also regroups."""

    def __init__(self, known: Known, *, apply: bool = True) -> None:
        self.world = FleetWorld()
        self.known = known
        self.world.knowledge = known
        self.apply = apply

    async def start(self, *nodes: str) -> City:
        await self.world.start()
        for node in nodes:
            self.world.join(node, gpu("gpu0"))
        reconciler = self.world.reconciler
        regrouper = Regrouper(RegroupLimits(hold_s=40.0))
        self.regrouping = Regrouping(reconciler.scene, reconciler.manoeuvres, regrouper, apply=self.apply)
        self.planner = LivePlanner(
            reconciler.scene, lambda *version: None, ScalingLimits(), reconciler.kick, regrouping=self.regrouping
        )
        return self

    async def model(self, tenant: str, name: str, slo_ms: int = 15) -> None:
        await self.world.model(tenant, name, 25, slo_ms=slo_ms)
        await self.run(2)

    async def run(self, seconds: int) -> None:
        for _ in range(seconds):
            self.known.models = {p.id: p.model_id for p in self.world.catalog.placements()}
            await self.planner.look()
            await self.world.passes(each_s=1.0)

    def node(self, model: str) -> str:
        return self.world.placement(model).node

    def decisions(self, model: str, kind: str) -> list[Decision]:
        return [d for d in self.world.catalog.decisions(model) if d.kind == kind]


@pytest.fixture
async def city() -> City:
    """Two heavy models that came while both were idle."""
    made = await City(Known()).start("n1", "n2")
    await made.model("acme", "h1")
    await made.model("globex", "h2")
    assert made.node("h1") == made.node("h2") == "n1"
    return made


async def test_heavy_ones_are_moved_apart_when_they_begin_to_work(city: City) -> None:
    city.known.traffic = {"h1": 0.5, "h2": 0.5}
    await city.run(6)
    preview = preview_view(city.world.catalog, city.planner.preview(), city.planner.wishes(), enabled=True)
    (step,) = [s for s in preview.steps if s.action == "move"]
    assert step.place == "n2/gpu0 (mps)"
    assert step.reason.endswith("waiting for that to hold")
    assert city.decisions(step.model, "manoeuvre") == []
    await city.run(40)
    assert {city.node("h1"), city.node("h2")} == {"n1", "n2"}
    begun = [d for name in ("h1", "h2") for d in city.decisions(name, "manoeuvre") if "moves from" in d.summary]
    (decision,) = begun
    assert "apart: an objective is missed beside its neighbours" in decision.summary
    assert decision.inputs["trigger"] == "at_risk"
    assert float(decision.inputs["strain_now"]) > 1.0 >= float(decision.inputs["strain_then"])
    assert any(a.chosen for a in decision.alternatives)
    assert city.planner.wishes() == []
    # Steady from here on.
    await city.run(120)
    assert sum(len(city.decisions(name, "manoeuvre")) for name in ("h1", "h2")) == 2


async def test_idle_ones_come_together_when_that_holds_and_part_when_they_work() -> None:
    known = Known(h1=0.5, h2=0.5)
    known.newcomer = 1.0
    city = await City(known).start("n1", "n2")
    await city.model("acme", "h1")
    await city.model("globex", "h2")
    assert {city.node("h1"), city.node("h2")} == {"n1", "n2"}
    await city.run(60)
    known.traffic = {}
    await city.run(30)
    assert city.planner.wishes()
    assert city.node("h1") != city.node("h2")
    await city.run(60)
    assert city.node("h1") == city.node("h2")
    (begun,) = [d for name in ("h1", "h2") for d in city.decisions(name, "manoeuvre") if "moves from" in d.summary]
    assert "together: its device becomes free" in begun.summary
    assert begun.inputs["trigger"] == "saving"
    assert "strain_now" not in begun.inputs
    known.traffic = {"h1": 0.5, "h2": 0.5}
    await city.run(60)
    assert city.node("h1") != city.node("h2")


async def test_where_nothing_helps_it_is_said_once() -> None:
    city = await City(Known()).start("n1")
    await city.model("acme", "h1")
    await city.model("globex", "h2")
    city.known.traffic = {"h1": 0.5, "h2": 0.5}
    await city.run(60)
    said = [d for name in ("h1", "h2") for d in city.decisions(name, "regroup")]
    (one,) = said
    assert "no other place is better" in one.summary
    preview = preview_view(city.world.catalog, [], city.planner.wishes(), enabled=True)
    assert [s.action for s in preview.steps] == ["blocked"]


async def test_switched_off_it_only_shows() -> None:
    city = await City(Known(), apply=False).start("n1", "n2")
    await city.model("acme", "h1")
    await city.model("globex", "h2")
    city.known.traffic = {"h1": 0.5, "h2": 0.5}
    await city.run(60)
    assert city.node("h1") == city.node("h2")
    (wish,) = city.planner.wishes()
    assert wish.due
    assert city.decisions("h1", "regroup") == city.decisions("h1", "manoeuvre") == []


async def test_without_profiles_nothing_is_looked_at() -> None:
    known = Known(h1=0.9, h2=0.9)
    known.heavy = known.light = frozenset()
    city = await City(known).start("n1", "n2")
    await city.model("acme", "h1")
    await city.model("globex", "h2")
    await city.run(60)
    assert city.planner.wishes() == []
    assert known.asked == 0
