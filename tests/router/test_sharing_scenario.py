"""Simulated GPUs whose truth no policy reads: models profiled against probes, placed, served, and moved by the router.

Two models stream from memory and slow each other 2.4 times, two hardly touch it. The truth is the discrete-event
resource model, the predictor sees solo and probe runs only.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from fleet_world import FleetWorld
from sharing_world import gpu

from isolation.interference.profiler import ProfilePlan, profile
from isolation.interference.simulated import Phase, ResourceTruth
from isolation.interference.simulated_bench import SimulatedBench
from partywall.domain.profiles import ProbeSetting, Profile, Resident, Resource, device_type
from router.control.neighbourhood import Neighbourhood
from router.control.planning import LivePlanner
from router.control.regrouping import Regrouping
from router.gateway.correction import Corrections
from router.policy.regroup import Regrouper
from router.policy.scaling import ScalingLimits

DRAM, POWER = ProbeSetting(Resource.DRAM), ProbeSetting(Resource.POWER)
TRUTH = ResourceTruth(
    {
        "stream": (Phase(2e-5, dram_bytes=6e7, watts=300, width=0.5),),
        "mild": (Phase(2e-5, dram_bytes=2e6, watts=200, width=0.5),),
        DRAM.name: (Phase(2e-5, dram_bytes=1.8e8, watts=300, width=0.5),),
        POWER.name: (Phase(6e-5, dram_bytes=1e6, watts=600),),
    },
    batches=10,
)
SOLO_S = 0.020
"""At half a device."""
OBJECTIVE_MS = 45
MODELS = ("stream-a", "stream-b", "mild-a", "mild-b")


def kind(model: str) -> str:
    return model.split("-")[0]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Profile]:
    """Profiles as `partywall profile` would take them on such a device."""
    plan, folder = ProfilePlan((DRAM, POWER), shares=(50,), probe_self=True), tmp_path_factory.mktemp("profiles")
    return {n: profile(n, SimulatedBench(n, TRUTH, full_ms=10.0), plan, folder / n) for n in ("stream", "mild")}


@dataclass
class Book:
    profiles: dict[str, Profile] = field(default_factory=dict)

    @property
    def any_probed(self) -> bool:
        return bool(self.profiles)

    def profile(self, model_id: str, version: int, device_type: str) -> Profile | None:
        return self.profiles.get(kind(model_id))


class Farm:
    """One node with four GPUs; every model serves so many batches a second, slowed as the truth says."""

    def __init__(self, book: Book) -> None:
        self.world, self.book = FleetWorld(), book
        self.rate = 2.0
        self.slowed: dict[tuple[Resident, ...], tuple[float, ...]] = {}
        self.corrections = Corrections(
            lambda: self.world.membership.replica_runtimes(),
            lambda node: self.world.membership.devices(node),
            book,
            device_type,
        )
        self.world.knowledge = Neighbourhood(book, self.corrections, self.world.clock)

    async def start(self) -> Farm:
        await self.world.start()
        self.world.join("n1", *(gpu(f"gpu{n}") for n in range(4)))
        reconciler = self.world.reconciler
        self.planner = LivePlanner(
            reconciler.scene,
            lambda *version: None,
            ScalingLimits(),
            reconciler.kick,
            regrouping=Regrouping(reconciler.scene, reconciler.manoeuvres, Regrouper()),
        )
        return self

    async def place(self) -> None:
        for number, model in enumerate(MODELS):
            await self.world.model(f"tenant{number}", model, 50, slo_ms=OBJECTIVE_MS)
            await self.world.passes(2)

    async def serve(self, seconds: int) -> None:
        for second in range(seconds):
            for model, at_once in self.slowdowns().items():
                # Each runs only part of the time, and meets the other as seldom.
                slowdown = 1 + (at_once - 1) * min(1.0, self.rate * SOLO_S)
                for one in self.world.placements(model):
                    runtime = self.world.membership.replicas_by_id.get(one.id)
                    if runtime is not None:
                        runtime.window.add(1, SOLO_S * slowdown, self.rate)
            if second % 2:
                self.corrections.tick(self.world.clock.monotonic())
            await self.planner.look()
            await self.world.passes(each_s=1.0)

    def device(self, model: str) -> str:
        return self.world.placements(model)[0].partition.device_id

    def slowdowns(self) -> dict[str, float]:
        """What really happens, while all work at once."""
        found = {}
        for device in {self.device(model) for model in MODELS}:
            here = [m for m in MODELS if self.device(m) == device]
            key = tuple(Resident(kind(m), 50) for m in here)
            if key not in self.slowed:
                self.slowed[key] = TRUTH.slowdowns(key)
            found.update(zip(here, self.slowed[key], strict=True))
        return found

    @property
    def kept(self) -> bool:
        """Whether every batch meets its objective."""
        return all(SOLO_S * s * 1e3 <= OBJECTIVE_MS for s in self.slowdowns().values())


async def test_heavy_models_are_kept_apart_light_ones_share_and_everybody_keeps_the_objective(
    measured: dict[str, Profile],
) -> None:
    farm = await Farm(Book(measured)).start()
    await farm.place()
    assert farm.device("stream-a") != farm.device("stream-b")
    # Two devices do for four models: a device each would be four.
    assert len({farm.device(m) for m in MODELS}) == 2
    assert farm.kept
    reason = farm.world.placement("stream-b").reason
    assert "nobody else is on the device" in reason
    assert "slowdown" in farm.world.placement("mild-a").reason
    # Served, nothing moves any more.
    before = {m: farm.device(m) for m in MODELS}
    await farm.serve(200)
    assert {m: farm.device(m) for m in MODELS} == before


async def test_without_profiles_they_land_together_and_are_parted_once_they_are_measured(
    measured: dict[str, Profile],
) -> None:
    book = Book()
    farm = await Farm(book).start()
    await farm.place()
    assert farm.device("stream-a") == farm.device("stream-b")
    assert not farm.kept
    await farm.serve(40)
    assert farm.device("stream-a") == farm.device("stream-b")
    book.profiles.update(measured)
    await farm.serve(60)
    assert farm.device("stream-a") != farm.device("stream-b")
    assert farm.kept
    assert len({farm.device(m) for m in MODELS}) <= 3
    settled = {m: farm.device(m) for m in MODELS}
    await farm.serve(300)
    assert {m: farm.device(m) for m in MODELS} == settled
