"""Live correction of replicas on a virtual clock: a victim and a neighbour on one device."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from isolation.interference.direct import DirectModel
from isolation.interference.model import Basis
from partywall.domain.fleet import Device, DeviceKind, Partition, PartitionKind
from partywall.domain.placements import Placement
from partywall.domain.profiles import ProbePoint, ProbeSetting, Profile, Resource, device_type
from router.gateway.correction import Corrections
from router.gateway.replicas import Replica
from router.gateway.service_window import ServiceWindow
from router.gateway.solo import share_of
from router.policy.routing import predicted_finish_s

CPU = Device("cpu", DeviceKind.CPU, "CPU", 1 << 33, 2, (0, 1))
AT = ProbePoint(ProbeSetting(Resource.LLC), 50, 50)
SOLO_S = 0.010
PERIOD_S = 2.0
SEED = 5


def profile_of(name: str, suffers: float = 1.2, presses: float = 2.0) -> Profile:
    solo = {(1, 50): 1e3 * SOLO_S}
    return Profile(
        name, "CPU x2", {50: 10.0}, {50: 10.0}, {AT: suffers}, {AT: presses}, solo_at_ms=solo, probe_self={AT: 2.0}
    )


class Book:
    def __init__(self, *names: str) -> None:
        self.known = {name: profile_of(name) for name in names}

    def profile(self, model_id: str, version: int, device_type: str) -> Profile | None:
        assert device_type == "CPU x2"
        return self.known.get(model_id)


def replica(name: str, core: int, worker: str = "") -> Replica:
    partition = Partition(f"p-{name}", PartitionKind.CPUSET, "cpu", (core,), 0)
    placement = Placement(f"place-{name}", name, name, 1, "n1", partition, worker or name, 0, 1)
    return Replica(placement, core + 1)


class World:
    """`run` lets both work for some periods; the neighbour is busy half of the time, or not at all."""

    def __init__(self, *profiled: str) -> None:
        self.victim, self.neighbour = replica("victim", 0), replica("neighbour", 1)
        self.book = Book(*profiled)
        both = (self.victim, self.neighbour)
        self.corrections = Corrections(lambda: both, lambda node: (CPU,), self.book, device_type)
        self.at_s = 0.0
        self.rng = np.random.default_rng(SEED)

    def run(self, periods: int, slowdown: float = 1.0, *, beside: bool = False, noise: float = 0.0) -> None:
        for _ in range(periods):
            for _ in range(20):
                took = SOLO_S * slowdown * math.exp(self.rng.normal(0, noise) if noise else 0.0)
                self.victim.window.add(1, took)
                self.victim.service.observe(1, took, self.at_s)
            if beside:
                self.neighbour.window.add(1, PERIOD_S)
            self.at_s += PERIOD_S
            self.corrections.tick(self.at_s)


def test_a_window_sums_by_rows_and_starts_over() -> None:
    window = ServiceWindow()
    window.add(1, 0.5)
    window.add(1, 0.25)
    window.add(4, 1.0)
    assert window.take() == {1: (2.0, 0.75), 4: (1.0, 1.0)}
    assert window.take() == {}


def test_without_a_profile_nothing_changes() -> None:
    world = World("neighbour")
    world.run(3, 1.5, beside=True)
    assert world.corrections.now("place-victim") is None
    assert world.victim.slowdown_factor == 1.0


def test_an_unprofiled_neighbour_leaves_admission_as_it_is() -> None:
    world = World("victim")
    world.run(10, 1.0)
    world.run(10, 1.2, beside=True)
    now = world.corrections.now("place-victim")
    assert now is not None
    assert now.basis is Basis.CONSTANT
    assert world.victim.slowdown_factor == 1.0


def test_alone_the_work_of_this_traffic_is_learned() -> None:
    world = World("victim", "neighbour")
    world.run(40, 1.6)
    world.run(10, 1.6 * 1.2, beside=True)
    now = world.corrections.now("place-victim")
    assert now is not None
    assert now.observed == pytest.approx(1.2, rel=0.05), "1.6 is longer input, not the neighbour"
    assert [n.model_id for n in now.neighbours] == ["neighbour"]


def test_a_busy_neighbour_raises_the_bound_before_batches_show_it() -> None:
    world = World("victim", "neighbour")
    world.run(10)
    alone_s = predicted_finish_s(world.victim, 1, 0.0)
    world.neighbour.window.add(1, PERIOD_S)
    world.corrections.tick(world.at_s + PERIOD_S)
    assert world.victim.slowdown_factor > 1.0
    assert predicted_finish_s(world.victim, 1, 0.0) > alone_s
    world.run(30)
    assert world.victim.slowdown_factor == 1.0


def test_live_reports_move_the_prediction_and_narrow_the_bound() -> None:
    world = World("victim", "neighbour")
    world.run(10)
    world.run(2, 1.3, beside=True)
    early = world.corrections.now("place-victim")
    world.run(60, 1.3, beside=True, noise=0.01)
    late = world.corrections.now("place-victim")
    assert early is not None
    assert late is not None
    assert late.corrected == pytest.approx(late.observed, rel=0.05)
    assert late.bound / late.corrected < early.bound / early.corrected
    assert not late.wants_profile


def test_a_change_asks_for_a_profile_and_a_new_profile_settles_it() -> None:
    world = World("victim", "neighbour")
    world.run(10)
    world.run(60, 1.1, beside=True, noise=0.01)
    steady = world.corrections.now("place-victim")
    assert steady is not None
    assert not steady.wants_profile
    world.run(30, 1.9, beside=True, noise=0.01)
    changed = world.corrections.now("place-victim")
    assert changed is not None
    assert changed.wants_profile
    assert changed.bound > steady.bound
    assert world.victim.slowdown_factor == 1.0, "samples are there: what they say counts, not a profile that misfits"
    world.corrections.new_profile("victim", 1)
    world.run(1, 1.0, beside=True)
    settled = world.corrections.now("place-victim")
    assert settled is not None
    assert not settled.wants_profile


def test_co_runs_are_kept_by_type_of_device_for_lessons() -> None:
    world = World("victim", "neighbour")
    world.run(10)
    world.run(10, 1.3, beside=True)
    kept = world.corrections.corrector._co_runs
    assert {(s.device_type, s.victim.name) for s in kept} == {("CPU x2", "victim:1")}
    assert not world.corrections.corrector.lessons, "one pair teaches nothing of others"


def test_a_predictor_is_made_once_until_a_profile_changes() -> None:
    world = World("victim", "neighbour")
    made: list[int] = []

    def counting(profiles: Mapping[str, Profile]) -> DirectModel:
        made.append(len(profiles))
        return DirectModel(profiles)

    world.corrections.predictor = counting
    world.run(5, beside=True)
    assert made == [2]
    world.book.known["neighbour"] = profile_of("neighbour", presses=1.1)
    world.run(5, beside=True)
    assert made == [2, 2]


def test_replicas_of_one_worker_are_not_neighbours() -> None:
    world = World("victim", "neighbour")
    world.neighbour.placement = replace(world.neighbour.placement, worker_id="victim")
    world.run(5, beside=True)
    now = world.corrections.now("place-victim")
    assert now is not None
    assert now.neighbours == ()


def test_a_profile_seeds_a_replica_that_has_not_served() -> None:
    world = World("victim")
    world.corrections.tick(0.0)
    assert predicted_finish_s(world.victim, 1, 0.0) == pytest.approx(SOLO_S)
    world.victim.service.observe(1, 0.02, 1.0)
    assert world.victim.service.mean_s(1) > SOLO_S


def test_shares_are_what_the_device_gives() -> None:
    one = replica("x", 0).placement
    assert share_of(one, CPU) == 50
    mps = replace(one, partition=Partition("m", PartitionKind.MPS, "gpu", (), 25))
    assert share_of(mps, Device("gpu", DeviceKind.GPU, "GPU", 1, 132)) == 25
