"""Profiling: on a simulated device every step, on real cores a short one."""

import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from isolation.engine import MemoryArtifact
from isolation.engine_simulated import SimulatedEngine
from isolation.interference.bench_cpu import CpuBench, share_cores
from isolation.interference.profiler import ProfilePlan, Step, StepKind, Values, assemble, profile
from isolation.interference.rounds import Pace
from isolation.interference.simulated import Phase, ResourceTruth
from isolation.interference.simulated_bench import SimulatedBench
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

    def run(self, step: Step) -> Values:
        if self.left == 0:
            raise ConnectionError("the worker died")
        self.left -= 1
        self.calls.append(step.key)
        return self.inner.run(step)


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
    pace = Pace(rounds=2, window_s=0.02, warmup_s=0.01)
    bench = CpuBench(loaded, {"x": np.ones((4, 4), np.float32)}, 4, cores, pace, llc_bytes=1 << 20)
    plan = ProfilePlan((ProbeSetting(Resource.LLC),), shares=(50,), rows=4, probe_self=True)
    found = profile("real", bench, plan, tmp_path / "p.json", anyway=True)
    assert found.probed
    assert found.solo_of(4, 50) == found.solo_ms[50] > 0
    assert set(found.probe_self) == {ProbePoint(ProbeSetting(Resource.LLC), 50, 50)}
    assert found.device_type.startswith("cpu ")
    assert waits
    assert os.sched_getaffinity(0) == set(cores)


@pytest.mark.parametrize(
    ("cores", "share", "kept"),
    [((0, 1, 2, 3), 50, (0, 1)), ((0, 1), 25, (0,)), ((5,), 100, (5,)), ((0, 1), 100, (0, 1))],
)
def test_share_of_cores(cores: tuple[int, ...], share: int, kept: tuple[int, ...]) -> None:
    assert share_cores(cores, share) == kept


def test_batches_are_solo_latencies_of_their_own(tmp_path: Path) -> None:
    plan = ProfilePlan((DRAM,), shares=(50, 100), batches=(1, 4, 16), rows=4)
    found = profile("stream", SimulatedBench("stream", TRUTH, row_ms=0.5), plan, tmp_path / "p.json")
    assert sorted(found.solo_at_ms) == [(r, s) for r in (1, 4, 16) for s in (50, 100)]
    assert found.solo_ms == {50: 7.0, 100: 3.5}
    assert found.solo_of(10, 100) == pytest.approx(6.5)
    assert found.solo_of(32, 100) == pytest.approx(19.0)
    assert found.solo_of(1, 60) == found.solo_of(1, 50)
    assert found.solo_of(1, 10) is None


def test_more_probes_stand_at_the_middle_only() -> None:
    plan = ProfilePlan((DRAM,), more_probes=(POWER,), probe_self=True)
    kinds = [(s.kind, s.probe, s.own_percent, s.probe_percent) for s in plan.steps() if s.probe is not None]
    assert kinds.count((StepKind.BESIDE, POWER, 50, 50)) == 1
    assert sum(k[1] == POWER for k in kinds) == 1
    assert kinds[-1] == (StepKind.PROBE_SELF, DRAM, 50, 50)
    assert len({s.key for s in plan.steps()}) == len(plan.steps())


def test_a_missing_run_is_named() -> None:
    with pytest.raises(InvalidInput, match="@25x1"):
        assemble("m", "gpu", PLAN, {})
