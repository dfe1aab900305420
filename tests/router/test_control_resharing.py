"""Shares cut anew in the router: carried out without a gap, recorded with inputs, shown before, and no tug-of-war."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from fleet_world import FleetWorld, cpu

from partywall.domain.fleet import PartitionKind
from partywall.domain.placements import Decision, ShareBy
from partywall.errors import InvalidInput
from router.control.manoeuvres import Manoeuvres
from router.control.partition_views import released_view, use_view
from router.control.partitions import Partitions
from router.control.plan_views import preview_view
from router.control.planning import LivePlanner
from router.control.regrouping import Regrouping
from router.control.resharing import Resharing
from router.policy.neighbour_costs import ALONE, Occupant, Prediction
from router.policy.regroup import Regrouper, RegroupLimits
from router.policy.reshare import Curve, ReshareLimits, Resharer
from router.policy.retarget import Change
from router.policy.scaling import ScalingLimits
from router.policy.sharing_words import Work
from router.policy.triggers import TriggerSettings
from router.policy.wants import Operator

ONE_CORE_S = 0.02


def service_s(cores: int) -> float:
    """What a row takes alone."""
    return float(ONE_CORE_S / cores**0.9)


@dataclass
class Quiet:
    """Neighbours cost nothing; solo times by share of four cores."""

    profiled: bool = True

    def informed(self) -> bool:
        return self.profiled

    def solo_s(self, device_type: str, model_id: str, version: int, share_percent: int) -> float | None:
        return service_s(max(1, share_percent // 25)) if self.profiled else None

    def bound(
        self, device_type: str, victim: Occupant, neighbours: Sequence[Occupant], kind: PartitionKind
    ) -> Prediction:
        return ALONE

    def work(self, placement_id: str, objective_ms: int) -> Work:
        return Work(objective_ms / 1e3, busy=0.1)

    def seen(self, placement_id: str, objective_ms: int) -> Work:
        return self.work(placement_id, objective_ms)

    def observed(self, placement_id: str) -> float:
        return 0.0

    def curve(self, model_id: str, version: int, device_type: str) -> Curve:
        return {(1, 25 * n): service_s(n) for n in (1, 2, 3, 4)} if self.profiled else {}


@dataclass
class Tally:
    asked: int = 0
    met: int = 0


@dataclass
class Shop:
    """One node of four cores; every model is asked at its rate, and served in time as far as its cores allow."""

    cores: int = 4
    nodes: int = 1
    apply: bool = True
    most: int = 4
    hold_s: float = 40.0
    knowledge: Quiet = field(default_factory=Quiet)
    operator: Operator = field(default_factory=lambda: Operator(overcommit=False))

    async def start(self) -> Shop:
        world = self.world = FleetWorld(self.operator)
        world.knowledge = self.knowledge
        await world.start()
        for n in range(self.nodes):
            world.join(f"n{n + 1}", cpu(self.cores))
        self.rates: dict[str, float] = {}
        self.tallies: dict[str, Tally] = {}
        self.unserved = 0
        self.rng = np.random.default_rng(7)
        reconciler = world.reconciler
        grouping = RegroupLimits(hold_s=self.hold_s)
        self.manoeuvres: Manoeuvres = reconciler.manoeuvres
        self.resharing = Resharing(
            reconciler.scene,
            reconciler.manoeuvres,
            Resharer(ReshareLimits(hold_s=self.hold_s)),
            self.knowledge.curve,
            apply=self.apply,
            grouping=grouping,
            most=self.most,
        )
        self.planner = LivePlanner(
            reconciler.scene,
            lambda tenant, model, version: self.tallies.get(model),
            ScalingLimits(most=self.most, triggers=TriggerSettings(hold_s=self.hold_s)),
            reconciler.kick,
            apply=self.apply,
            regrouping=Regrouping(reconciler.scene, reconciler.manoeuvres, Regrouper(grouping), apply=self.apply),
            resharing=self.resharing,
        )
        return self

    async def model(self, tenant: str, name: str, rate: float, share: int = 0, slo_ms: int = 100) -> None:
        await self.world.model(tenant, name, share, slo_ms=slo_ms)
        self.rates[name], self.tallies[name] = rate, Tally()
        await self.world.passes(3)

    async def run(self, seconds: int) -> None:
        for _ in range(seconds):
            for name, rate in self.rates.items():
                self._serve(name, rate)
            await self.planner.look()
            await self.world.passes(each_s=1.0)
            self._hold_no_core_twice()

    def _serve(self, name: str, rate: float) -> None:
        if not self.world.placements(name):
            return
        arrivals = int(self.rng.binomial(1000, rate / 1000))
        serving = self.world.route(name).replicas
        self.unserved += not serving
        able = 0.0
        for replica in serving:
            seconds = service_s(len(replica.placement.partition.cores))
            replica.service.observe(1, seconds, self.world.clock.monotonic())
            able += 0.9 / seconds
        self.tallies[name].asked += arrivals
        self.tallies[name].met += min(arrivals, int(able))

    def _hold_no_core_twice(self) -> None:
        """But for a partition and the one that takes over from it."""
        placements = self.world.catalog.placements()
        for one in placements:
            for other in placements:
                pair = other.id in (one.id, one.replaces) or one.id == other.replaces
                same = one.node == other.node and one.partition.id != other.partition.id
                if same and not pair:
                    assert not set(one.partition.cores) & set(other.partition.cores)

    def cores_of(self, name: str) -> list[int]:
        return [len(p.partition.cores) for p in self.world.placements(name)]

    def decisions(self, name: str, kind: str, words: str = "") -> list[Decision]:
        return [d for d in self.world.catalog.decisions(name) if d.kind == kind and words in d.summary]


@pytest.fixture
async def shop() -> Shop:
    return await Shop().start()


async def test_a_model_under_load_gets_a_larger_share_and_gives_it_back_when_somebody_waits(shop: Shop) -> None:
    await shop.model("acme", "m", 5)
    await shop.run(60)
    assert shop.cores_of("m") == [1]
    shop.rates["m"] = 30
    await shop.run(40)
    # After a jump the forecast's bound is above the rate: two cores or three.
    (cores,) = shop.cores_of("m")
    assert cores in (2, 3)
    assert shop.world.placement("m").share_by is ShareBy.PLANNER
    (grown,) = shop.decisions("m", "manoeuvre", "share grows")
    assert "expected too late at 1 core(s)" in grown.summary
    assert grown.inputs["share_now"] == "1 core(s)"
    assert grown.inputs["share_then"] == f"{cores} core(s)"
    assert float(grown.inputs["late_now"]) > 0.01 >= float(grown.inputs["late_then"])
    assert [a.chosen for a in grown.alternatives].count(True) == 1
    assert shop.decisions("m", "scale") == []
    # Steady from here on, also when the load goes, as long as nobody gains by less.
    await shop.run(200)
    shop.rates["m"] = 5
    await shop.run(400)
    assert shop.cores_of("m") == [cores]
    assert len(shop.decisions("m", "manoeuvre")) == 2
    await shop.model("globex", "big", 2, share=75)
    assert shop.world.placements("big") == []
    # It has long been larger than needed; now there is somebody who wants it.
    await shop.run(60)
    assert shop.cores_of("m") == [1]
    assert shop.cores_of("big") == [3]
    (shrunk,) = shop.decisions("m", "manoeuvre", "share shrinks")
    assert "globex" not in shrunk.summary
    assert "a resident waits for a place" in shrunk.summary
    assert shop.unserved == 0


async def test_what_waits_to_hold_is_shown() -> None:
    shop = await Shop(hold_s=900.0).start()
    await shop.model("acme", "m", 30)
    await shop.run(40)
    shop.rates["m"] = 5
    await shop.run(300)
    await shop.model("globex", "big", 2, share=75)
    await shop.run(10)
    preview = preview_view(
        shop.world.catalog, shop.planner.preview(), shop.planner.wishes(), shop.planner.recuts(), enabled=True
    )
    (step,) = [s for s in preview.steps if s.action == "resize"]
    assert "globex/big waits for a place" in step.reason
    assert step.reason.endswith("waiting for that to hold")
    assert step.place == "n1/cpu (1 core(s))"
    assert step.tenant == "acme"


async def test_growing_comes_before_another_replica_and_the_two_do_not_pull_at_each_other() -> None:
    shop = await Shop(nodes=2).start()
    await shop.model("acme", "m", 5)
    await shop.run(30)
    shop.rates["m"] = 30
    await shop.run(120)
    (cores,) = shop.cores_of("m")
    assert cores in (2, 3)
    assert shop.decisions("m", "scale") == []
    # More than a device may give: replicas come, each as large as the first.
    shop.rates["m"] = 180
    await shop.run(300)
    sizes = shop.cores_of("m")
    assert len(sizes) > 1
    changes = len(shop.decisions("m", "manoeuvre")) + len(shop.decisions("m", "scale"))
    await shop.run(300)
    assert shop.cores_of("m") == sizes
    assert len(shop.decisions("m", "manoeuvre")) + len(shop.decisions("m", "scale")) == changes
    assert shop.unserved == 0


async def test_one_change_of_a_device_at_a_time(shop: Shop) -> None:
    shop.world.join("n1", cpu(16))
    await shop.model("acme", "m", 40, share=0)
    await shop.model("globex", "n", 40, share=0)
    for _ in range(120):
        await shop.run(1)
        moving = {p.node for p in shop.manoeuvres.under_way()}
        assert len(shop.manoeuvres.under_way()) <= len(moving)


async def test_what_somebody_asked_for_stays(shop: Shop) -> None:
    await shop.model("acme", "asked", 45, share=25)
    await shop.model("globex", "resized", 5)
    partitions = Partitions(shop.world.reconciler.scene, shop.manoeuvres)
    await partitions.change("globex/resized", Change(cores=2), dry_run=False)
    await shop.run(10)
    placement = shop.world.placement("resized")
    assert (len(placement.partition.cores), placement.share_by) == (2, ShareBy.OPERATOR)
    await shop.run(120)
    assert shop.cores_of("asked") == [1]
    await shop.model("initech", "waits", 1, share=50)
    await shop.run(200)
    assert shop.cores_of("resized") == [2]
    assert shop.world.placements("waits") == []


async def test_a_size_is_the_planners_again_when_the_operator_says_so(shop: Shop) -> None:
    await shop.model("acme", "asked", 5, share=25)
    await shop.model("globex", "resized", 5)
    scene = shop.world.reconciler.scene
    partitions = Partitions(scene, shop.manoeuvres)
    await partitions.change("globex/resized", Change(cores=2), dry_run=False)
    await shop.run(60)
    use = partitions.find("globex/resized")
    assert use_view(scene, use).share_by == "operator"
    await shop.model("initech", "waits", 1, share=50)
    shown = released_view(scene, await partitions.release("globex/resized"))
    assert shown.before.share_by == "planner"
    assert "planner's" in shown.reason
    await shop.run(120)
    assert shop.cores_of("resized") == [1]
    assert shop.cores_of("waits") == [2]
    with pytest.raises(InvalidInput, match="push one without"):
        await partitions.release("acme/asked")


async def test_a_replica_that_moves_and_one_more_get_the_share_that_was_chosen() -> None:
    shop = await Shop(nodes=2, cores=8).start()
    await shop.model("acme", "m", 2)
    partitions = Partitions(shop.world.reconciler.scene, shop.manoeuvres)
    await partitions.change("acme/m", Change(cores=4), dry_run=False)
    await shop.run(20)
    scene = shop.world.reconciler.scene
    entry, tenant = scene.catalog.model_by_id("m"), scene.catalog.tenant("acme")
    assert entry is not None
    assert tenant is not None
    placement = shop.world.placement("m")
    assert scene.want(tenant, entry, entry.versions[1], placement).share_percent == 50
    async with shop.world.catalog.transaction() as tx:
        await tx.update(replace(entry.model, replicas=2))
    await shop.world.passes(4)
    second = next(p for p in shop.world.placements("m") if p.id != placement.id)
    assert (len(second.partition.cores), second.share_by) == (4, ShareBy.OPERATOR)


async def test_switched_off_it_only_shows() -> None:
    shop = await Shop(apply=False).start()
    await shop.model("acme", "m", 30)
    await shop.run(60)
    assert shop.cores_of("m") == [1]
    (wish,) = shop.planner.recuts()
    assert wish.due
    assert shop.decisions("m", "manoeuvre") == shop.decisions("m", "reshare") == []


async def test_where_no_share_helps_it_is_said_once(shop: Shop) -> None:
    await shop.model("acme", "m", 45, slo_ms=5)
    await shop.run(120)
    (said,) = shop.decisions("m", "reshare")
    assert "no larger share would keep the objective" in said.summary
    preview = preview_view(shop.world.catalog, [], [], shop.planner.recuts(), enabled=True)
    assert [s.action for s in preview.steps] == ["blocked"]


async def test_without_a_profile_shares_stay_and_replicas_come() -> None:
    shop = await Shop(nodes=2, knowledge=Quiet(profiled=False)).start()
    await shop.model("acme", "m", 5)
    await shop.run(30)
    shop.rates["m"] = 60
    await shop.run(60)
    assert set(shop.cores_of("m")) == {1}
    assert len(shop.cores_of("m")) > 1


async def test_a_restarted_router_knows_who_chose_the_share(shop: Shop) -> None:
    await shop.model("acme", "m", 30)
    await shop.run(60)
    assert shop.cores_of("m") == [2]
    await shop.world.start()
    assert shop.world.placement("m").share_by is ShareBy.PLANNER
