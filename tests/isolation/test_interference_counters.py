"""Counters around a solo run, on a simulated GPU: read, absent, failing."""

from __future__ import annotations

from pathlib import Path

import pytest

from isolation.devices.facts import Counter
from isolation.devices.geometry import MigModel
from isolation.devices.simulated import SimulatedGpuLibrary
from isolation.devices.simulated_gpu import SimulatedGpu
from isolation.interference.counters import SoloCounters
from isolation.interference.profiler import ProfilePlan, Step, Values, profile
from partywall.clock import VirtualClock


def gpu_of(model: MigModel) -> tuple[SimulatedGpu, SimulatedGpuLibrary, VirtualClock]:
    clock = VirtualClock()
    gpu = SimulatedGpu(0, model, clock)
    return gpu, SimulatedGpuLibrary([gpu], clock), clock


def test_a_run_is_counted() -> None:
    gpu, library, clock = gpu_of(MigModel.H100_80)
    gpu.start_process(1)
    gpu.set_load(1, {Counter.DRAM_BANDWIDTH: 40.0, Counter.SM_UTILISATION: 70.0})
    counters = SoloCounters(library, gpu.uuid)
    counters.start()
    clock.advance(1.0)
    found = counters.stop()
    assert found["dram_bw"] == pytest.approx(40.0)
    assert found["sm_util"] == pytest.approx(70.0)
    assert found["watts"] > 0
    assert counters.stop() == {}, "nothing is open any more"


def test_without_gpm_a_profile_has_no_counters() -> None:
    gpu, library, _ = gpu_of(MigModel.A100_40)
    counters = SoloCounters(library, gpu.uuid)
    counters.start()
    assert counters.stop() == {}


def test_a_run_too_short_to_count_costs_nothing() -> None:
    gpu, library, _ = gpu_of(MigModel.H100_80)
    counters = SoloCounters(library, gpu.uuid)
    counters.start()
    assert counters.stop() == {}


class Counted:
    """A bench whose solos have counters."""

    device_type = "gpu"

    def busy(self) -> str:
        return ""

    def run(self, step: Step) -> Values:
        return {"alone_ms": 1.0, "spread": 0.0, "sm_util": 60.0, "sm_occupancy": 1.0, "tensor": 2.0} | {
            "dram_bw": 30.0,
            "watts": 400.0,
            "sm_mhz": 1900.0,
        }


def test_a_profile_keeps_them_by_share(tmp_path: Path) -> None:
    plan = ProfilePlan((), shares=(50, 100), batches=(1, 4))
    found = profile("m", Counted(), plan, tmp_path / "p.json")
    assert sorted(found.counters) == [50, 100]
    assert found.counters[50].watts == 400.0
