"""CPU probes: the dial, the count, the process, repeatability."""

import os

import pytest

from isolation.interference.probes import (
    CPU_PROBES,
    DutyCycle,
    ProbeProcess,
    Progress,
    calibrate,
    make_load,
)
from partywall.domain.profiles import ProbeSetting, Resource
from partywall.errors import InvalidInput, Unavailable

SMALL_LLC = 1 << 20


class Time:
    """A clock that the load and the pauses move."""

    def __init__(self) -> None:
        self.now = 0.0
        self.paused = 0.0

    def monotonic(self) -> float:
        return self.now

    def pause(self, seconds: float) -> None:
        self.now += seconds
        self.paused += seconds


class Millisecond:
    def __init__(self, time: Time) -> None:
        self.time = time

    def unit(self) -> None:
        self.time.now += 0.001


@pytest.mark.parametrize("level", [1.0, 0.4, 0.1])
def test_dial_is_the_share_of_time(level: float) -> None:
    time = Time()
    progress = DutyCycle(Millisecond(time), level, time.monotonic, time.pause).run_for(10.0)
    assert progress.busy_s / time.now == pytest.approx(level, rel=0.02)
    assert progress.unit_ms == pytest.approx(1.0)


def test_at_least_one_unit_is_done() -> None:
    time = Time()
    assert DutyCycle(Millisecond(time), 1.0, time.monotonic, time.pause).run_for(0.0).units == 1


@pytest.mark.parametrize("resource", [Resource.MEMORY_BANDWIDTH, Resource.LLC, Resource.RANDOM])
def test_every_load_runs(resource: Resource) -> None:
    load = make_load(resource, SMALL_LLC)
    assert DutyCycle(load, 1.0).run_for(0.01).units >= 1


def test_resource_of_a_gpu_is_refused() -> None:
    with pytest.raises(InvalidInput, match="no CPU probe"):
        make_load(Resource.POWER)


def test_process_reports_windows_and_ends() -> None:
    core = min(os.sched_getaffinity(0))
    with ProbeProcess(ProbeSetting(Resource.LLC, 0.4), [core], SMALL_LLC) as probe:
        windows = [probe.window() for _ in range(3)]
    assert all(w.units >= 1 and w.busy_s > 0 for w in windows)


def test_dead_process_is_unavailable() -> None:
    core = min(os.sched_getaffinity(0))
    with ProbeProcess(ProbeSetting(Resource.LLC, 1.0), [core], SMALL_LLC) as probe:
        probe._process.kill()
        probe._process.join(10)
        with pytest.raises(Unavailable, match="probe:llc"):
            probe.window()


def test_calibration_is_the_median_with_its_spread() -> None:
    found = calibrate(CPU_PROBES[0], [Progress(10, 0.010), Progress(10, 0.012), Progress(10, 0.011)])
    assert found.unit_ms == pytest.approx(1.1)
    assert found.spread == pytest.approx(0.2 / 1.1)
    assert found.repeats == 3
    with pytest.raises(InvalidInput, match="windows"):
        calibrate(CPU_PROBES[0], [])
