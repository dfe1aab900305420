"""A router's live planner over a simulated node whose models are asked at chosen rates, and served as cores allow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from fleet_world import FleetWorld, cpu

from partywall.domain.fleet import PartitionKind
from partywall.domain.placements import Decision
from router.control.manoeuvres import Manoeuvres
from router.control.planning import LivePlanner
from router.control.regrouping import Regrouping
from router.control.resharing import Resharing
from router.policy.neighbour_costs import ALONE, Occupant, Prediction
from router.policy.regroup import Regrouper, RegroupLimits
from router.policy.reshare import Curve, ReshareLimits, Resharer
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
