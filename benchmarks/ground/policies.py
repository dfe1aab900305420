"""Who plays on the ground: from a scenario and a load to a scheduling policy. None reads the truth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from benchmarks.ground.predictor import Known
from benchmarks.ground.scenario import DEVICES, MEMORY_GB, WEIGHTS_GB, Scenario
from isolation.interference.rows import Colocation
from loadgen.as_served import AsServed, LanePlacement
from loadgen.baselines.dedicated import Dedicated
from loadgen.baselines.fifo import FifoLanes
from loadgen.baselines.gpulet import Gpulet, GpuletPolicy, gpulet_plan
from loadgen.world import SchedulingPolicy, World
from partywall.domain.profiles import Resident
from router.policy.cutting import CutPlan, plan_cut
from router.policy.neighbours import PredictedNeighbours
from router.policy.planner import FleetPlanner, ModelDemand
from router.policy.sizing import ProfileGrid
from router.policy.waiting import CutDemand, Floats

Maker = Callable[["Player", float], SchedulingPolicy]


@dataclass(slots=True)
class Player:
    """One scenario as the planners see it."""

    scenario: Scenario
    known: Known
    neighbours: PredictedNeighbours = field(init=False)
    plans: dict[float, CutPlan] = field(default_factory=dict)
    _alpha: dict[tuple[int, int, int, int], float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.neighbours = PredictedNeighbours(self.known.model, self.scenario.names, self.known.solo_s.table)

    # -- gpulet's profile ---------------------------------------------------------------------------------------

    def service_s(self, model: int, percent: int, size: int) -> float:
        return size * self.known.solo_s.at(self.scenario.names[model], percent / 100)

    def alpha(self, victim: int, percent: int, aggressor: int, aggressor_percent: int) -> float:
        """Its linear form on utilisations, fitted on the co-runs that our predictor learned from."""
        key = victim, percent, aggressor, aggressor_percent
        if key not in self._alpha:
            names = self.scenario.names
            row = Colocation(Resident(names[victim], percent), (Resident(names[aggressor], aggressor_percent),))
            self._alpha[key] = float(self.known.gpulet.predict([row])[0])
        return self._alpha[key]

    # -- placements ---------------------------------------------------------------------------------------------

    def lane(self, device: int, percent: int, members: Sequence[int], slowdown: float = 1.0) -> LanePlacement:
        def expected_s(model: int, size: int) -> float:
            return slowdown * self.service_s(model, percent, size)

        return LanePlacement(device, percent / 100, tuple(members), expected_s)

    def homes(self) -> list[tuple[int, ...]]:
        """Tenants dealt to devices, heaviest first to the least loaded."""
        load, found = [0.0] * DEVICES, [[] for _ in range(DEVICES)]  # type: tuple[list[float], list[list[int]]]
        for tenant in sorted(range(len(self.scenario.part)), key=lambda t: -self.scenario.part[t]):
            device = min(range(DEVICES), key=load.__getitem__)
            load[device] += self.scenario.part[tenant]
            found[device].append(tenant)
        return [tuple(held) for held in found]

    def cut(self, load: float, *, neighbours: bool) -> list[LanePlacement]:
        """The cut planner's answer; `neighbours` off: it believes that nobody slows anybody."""
        scenario = self.scenario
        demands = [
            CutDemand(traffic.rate_per_s, traffic.cv, model.objective_s, WEIGHTS_GB)
            for traffic, model in zip(scenario.traffic(load), scenario.models, strict=True)
        ]
        cost = self.neighbours if neighbours else Unslowed(self.neighbours)
        plan = plan_cut(demands, DEVICES, MEMORY_GB, cost)
        if neighbours:
            self.plans[load] = plan
        return [
            self.lane(device, share, plan.members(device, share), 1.1 if neighbours and len(layout) > 1 else 1.0)
            for device, layout in enumerate(plan.layouts)
            for share in layout
        ]

    def own_partitions(self, load: float) -> list[LanePlacement]:
        """The fleet planner's answer: every replica in a partition of its own."""
        names, shares = self.scenario.names, (25, 50, 75, 100)
        grid = ProfileGrid(
            tuple(m.name for m in self.scenario.models),
            (1,),
            shares,
            np.array([[[1000 * self.service_s(t, s, 1) for s in shares]] for t in range(len(names))]),
        )
        demands = [
            ModelDemand(traffic.rate_per_s, traffic.cv, 1000 * model.objective_s, WEIGHTS_GB)
            for traffic, model in zip(self.scenario.traffic(load), self.scenario.models, strict=True)
        ]
        plan = FleetPlanner(grid, demands, DEVICES, MEMORY_GB, self.neighbours).plan()
        place = {name: at for at, name in enumerate(grid.models)}
        return [self.lane(r.device, r.share, (place[r.model],), 1.05) for r in plan.replicas]


@dataclass(frozen=True, slots=True)
class Unslowed:
    """Profiles without interference."""

    inner: PredictedNeighbours

    def solo_s(self, share: int) -> Floats:
        return self.inner.solo_s(share)

    def log_slowdown(self, share: int, neighbour_share: int) -> tuple[Floats, Floats]:
        mean, _ = self.inner.log_slowdown(share, neighbour_share)
        return np.zeros_like(mean), np.zeros_like(mean)


class OwnProcesses(FifoLanes):
    """A process per tenant, all on the whole device at once, first come first served in each; nobody is refused."""

    def __init__(self, homes: Sequence[Sequence[int]]) -> None:
        self._homes = homes

    def place(self, world: World) -> None:
        for device, tenants in enumerate(self._homes):
            for lane, tenant in zip(world.cut(device, [1.0] * len(tenants), capped=False), tenants, strict=True):
                world.place(device, tenant)
                self.hosts[tenant].append(lane)

    def choose(self, now: float, model: int, lanes: Sequence[int]) -> int:
        return lanes[0]


def _served(player: Player, load: float, placement: Sequence[LanePlacement]) -> AsServed:
    return AsServed(player.scenario.traffic(load), placement=placement)


def _gpulet_lanes(player: Player, load: float) -> list[LanePlacement]:
    scenario = player.scenario
    lets: Sequence[Gpulet] = gpulet_plan(
        scenario.models, scenario.traffic(load), player, DEVICES, MEMORY_GB, batching=False
    )
    return [player.lane(x.device, x.percent, tuple(dict.fromkeys(m for m, _, _ in x.serves))) for x in lets if x.serves]


OURS, GPULET, ONE_MODEL, ONE_AT_A_TIME = "partywall", "gpulet", "one model per GPU", "one model at a time per GPU"
PLAYERS: dict[str, Maker] = {
    ONE_MODEL: lambda player, load: Dedicated(player.scenario.traffic(load)),
    ONE_AT_A_TIME: lambda player, load: _served(
        player, load, [player.lane(d, 100, held) for d, held in enumerate(player.homes())]
    ),
    GPULET: lambda player, load: GpuletPolicy(player.scenario.traffic(load), player),
    "gpulet's partitions, our queue": lambda player, load: _served(player, load, _gpulet_lanes(player, load)),
    "ours, a partition per tenant": lambda player, load: _served(player, load, player.own_partitions(load)),
    "ours, devices uncut": lambda player, load: _served(
        player, load, [player.lane(d, 100, range(len(player.scenario.part))) for d in range(DEVICES)]
    ),
    "ours, blind to neighbours": lambda player, load: _served(player, load, player.cut(load, neighbours=False)),
    OURS: lambda player, load: _served(player, load, player.cut(load, neighbours=True)),
}
