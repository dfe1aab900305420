"""Profiling: on a simulated device every step, on real cores a short one."""

import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from isolation.engine import MemoryArtifact, SimulatedEngine
from isolation.interference.bench_cpu import CpuBench, share_cores
from isolation.interference.profiler import Beside, ProfilePlan, SimulatedBench, Step, profile
from isolation.interference.simulated import Phase, ResourceTruth
from partywall.domain.profiles import ProbePoint, ProbeSetting, Resource
from partywall.errors import InvalidInput, NotReady

DRAM = ProbeSetting(Resource.DRAM)
POWER = ProbeSetting(Resource.POWER)
PLAN = ProfilePlan((DRAM, POWER))
TRUTH = ResourceTruth(
    {
        "stream": (Phase(2e-5, dram_bytes=6e7, watts=300, width=0.5),),
        DRAM.name: (Phase(2e-5, dram_bytes=1.8e8, watts=300, width=0.5),),
        POWER.name: (Phase(6e-5, dram_bytes=1e6, watts=600),),
    },
    batches=10,
)


def test_simulated_profile_has_both_curves(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []

    def tick(done: int, of: int, step: Step) -> None:
        assert step.key
        seen.append((done, of))

    found = profile("stream", SimulatedBench("stream", TRUTH), PLAN, tmp_path / "p.json", tick=tick)
    assert len(seen) == 4 + 2 * 6 == seen[-1][1]
    assert found.probed
    assert found.solo_ms[50] == 2 * found.solo_ms[100]
    point = {r: found.sensitivity[ProbePoint(r, 50, 50)] for r in (DRAM, POWER)}
    assert point[DRAM] > 1.3 > point[POWER]
    assert found.pressure[ProbePoint(DRAM, 50, 50)] > 1.1


@dataclass
class Counting:
    """A bench that fails after some runs."""

    inner: SimulatedBench
    left: int
    device_type: str = "simulated"
    calls: list[str] = field(default_factory=list)

    def busy(self) -> str:
        return ""

    def solo_ms(self, share_percent: int) -> float:
        self._spend()
        return self.inner.solo_ms(share_percent)

    def beside(self, probe: ProbeSetting, own_percent: int, probe_percent: int) -> Beside:
        self._spend()
        return self.inner.beside(probe, own_percent, probe_percent)

    def _spend(self) -> None:
        if self.left == 0:
            raise ConnectionError("the worker died")
        self.left -= 1
        self.calls.append("run")


def test_interrupted_profile_resumes_where_it_stopped(tmp_path: Path) -> None:
    state = tmp_path / "p.json"
    bench = SimulatedBench("stream", TRUTH)
    with pytest.raises(ConnectionError):
        profile("stream", Counting(bench, left=7), PLAN, state)
    rest = Counting(bench, left=100)
    resumed = profile("stream", rest, PLAN, state)
    assert len(rest.calls) == 16 - 7
    assert resumed == profile("stream", bench, PLAN, tmp_path / "other.json")


def test_busy_device_is_refused_unless_anyway(tmp_path: Path) -> None:
    busy = SimulatedBench("stream", TRUTH, occupant="2 replicas serve")
    with pytest.raises(NotReady, match="2 replicas serve"):
        profile("stream", busy, PLAN, tmp_path / "p.json")
    assert profile("stream", busy, PLAN, tmp_path / "p.json", anyway=True).probed


@pytest.mark.parametrize("text", ["{", '{"model": "other", "device_type": "simulated", "steps": {}}'])
def test_state_of_another_model_is_refused(tmp_path: Path, text: str) -> None:
    state = tmp_path / "p.json"
    state.write_text(text)
    with pytest.raises(InvalidInput, match="state file"):
        profile("stream", SimulatedBench("stream", TRUTH), PLAN, state)


def test_real_cores_are_measured_through_the_engine(tmp_path: Path) -> None:
    waits: list[float] = []

    def spin(seconds: float) -> None:
        waits.append(seconds)
        np.ones(1 << 14).sum()

    loaded = SimulatedEngine(spin).load(MemoryArtifact({"w": b"x"}), {}, 8)
    cores = tuple(sorted(os.sched_getaffinity(0)))
    bench = CpuBench(loaded, {"x": np.ones((4, 4), np.float32)}, 4, cores, window_s=0.02, llc_bytes=1 << 20)
    plan = ProfilePlan((ProbeSetting(Resource.LLC),), shares=(50,))
    found = profile("real", bench, plan, tmp_path / "p.json", anyway=True)
    assert found.probed
    assert found.device_type.startswith("cpu ")
    assert waits
    assert os.sched_getaffinity(0) == set(cores)


@pytest.mark.parametrize(
    ("cores", "share", "kept"),
    [((0, 1, 2, 3), 50, (0, 1)), ((0, 1), 25, (0,)), ((5,), 100, (5,)), ((0, 1), 100, (0, 1))],
)
def test_share_of_cores(cores: tuple[int, ...], share: int, kept: tuple[int, ...]) -> None:
    assert share_cores(cores, share) == kept
