"""A dry run of the hardware checks over stand-ins: every line of them runs before a GPU meets it."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks import gpu_all, gpu_bundle, gpu_checks
from benchmarks.gpu import parking as gpu_parking
from benchmarks.gpu.daemon import own_daemon
from benchmarks.gpu.findings import Finding, Report, guarded
from benchmarks.gpu.processes import LineProcess
from isolation.devices.geometry import MigModel
from isolation.devices.nvml import NvmlLibrary
from isolation.devices.simulated_gpu import SimulatedGpu
from isolation.devices.simulated_nvml import SimulatedNvml
from partywall.clock import SystemClock

ROOT = Path(__file__).resolve().parents[1]
MPS_STAND_IN = (sys.executable, str(ROOT / "tests/isolation/partition/mps_stand_in.py"))


def test_all_checks_run_and_write_what_they_saw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{ROOT / 'tests/gpu_stand_in'}:{ROOT}")
    gpu = SimulatedGpu(0, MigModel.H100_80, SystemClock())
    gpu.start_process(4_000_000, 1 << 30)
    library = NvmlLibrary(SimulatedNvml([gpu], SystemClock()))
    # The stand-in for torch has no networks: weights are moved by the real one, over a simulated device.
    parking = ("env", f"PYTHONPATH={ROOT}", *gpu_parking.COMMAND, "--simulate")
    page = tmp_path / "gpu"
    status = gpu_checks.run(library, library.gpus()[0], page, MPS_STAND_IN, seconds=0.1, suites=False, parking=parking)
    written = json.loads((tmp_path / "gpu.json").read_text())
    found = {one["name"]: (one["ok"], one["seen"]) for one in written["findings"]}
    # The simulated driver knows nothing of the stand-in's clients, and a p99 of this machine is no verdict.
    expected = {"driver lists the worker as an MPS client", "kill -9 of a neighbour"}
    assert {name for name, (ok, _) in found.items() if ok is False} <= expected, found
    assert found["static SM partitions"][0] is None
    assert len(found) == 20
    assert "the same answers" in found["parked weights come back"][1]
    assert "out of memory" in found["waking without room is refused and can be done later"][1]
    assert status == 1
    assert "| MPS share 25 % | pass | 32 of 132 SMs" in (tmp_path / "gpu.md").read_text()


def test_a_daemon_of_ones_own_is_gone_afterwards(tmp_path: Path) -> None:
    with own_daemon("GPU-1", tmp_path, MPS_STAND_IN) as control:
        control.start()
        assert control.alive()
    assert not control.alive()


def test_a_child_that_says_nothing_is_waited_for_no_longer_than_its_limit_and_ended() -> None:
    child = LineProcess([sys.executable, "-c", "import time; time.sleep(60)"])
    with pytest.raises(TimeoutError, match="said nothing"):
        child.answer(0.01)
    child.end(signal.SIGKILL)
    with pytest.raises(RuntimeError, match="ended with -9"):
        child.answer(10.0)


def test_what_a_library_prints_is_not_an_answer() -> None:
    child = LineProcess([sys.executable, "-c", "print('WARNING'); print('{\"a\": 1}')"])
    assert child.answer(30.0) == {"a": 1}
    child.end()


def test_a_check_that_fails_halfway_keeps_what_it_found(tmp_path: Path) -> None:
    def check() -> list[Finding]:
        yield Finding("first", True, "seen")
        raise KeyError("gone")

    report = Report("Title", "Made by a test.", tmp_path / "page")
    for finding in guarded("second", check):
        report.add(finding)
        assert json.loads((tmp_path / "page.json").read_text())["findings"][-1]["name"] == finding.name
    assert [(one.name, one.ok) for one in report.findings] == [("first", True), ("second", False)]
    assert report.status == 1
    assert Report("Empty", "", None).status == 1


@pytest.mark.parametrize(
    ("statuses", "expected"), [([0, 0, 0], 0), ([0, 1, 0], 1), ([0, None, 0], 1), ([2, 2, 2], 2), ([0, 2, 0], 1)]
)
def test_a_part_never_stops_the_next_and_its_failure_is_the_end_status(
    statuses: list[int | None], expected: int, tmp_path: Path
) -> None:
    ran: list[str] = []

    def run(command: Sequence[str], limit_s: float) -> int | None:
        ran.append(Path(command[1]).stem)
        return statuses[len(ran) - 1]

    assert gpu_all.run_all(gpu_all.PARTS, tmp_path, run) == expected
    assert ran == ["gpu_checks", "gpu_live", "gpu_profile"]
    assert all((ROOT / "benchmarks" / f"{name}.py").is_file() for name in ran)


def test_all_parts_together_stay_under_ten_minutes() -> None:
    assert sum(part.limit_s for part in gpu_all.PARTS) + gpu_all.GRACE_S < 600


def test_a_part_that_hangs_is_ended_with_all_it_started(tmp_path: Path) -> None:
    script = "import os, subprocess, sys, time; p = subprocess.Popen(['sleep', '60'])\n"
    script += f"open({str(tmp_path / 'pid')!r}, 'w').write(str(p.pid)); time.sleep(60)"
    assert gpu_all.run([sys.executable, "-c", script], 2.0) is None
    pid = int((tmp_path / "pid").read_text())
    give_up_s = time.monotonic() + 10.0
    while _runs(pid) and time.monotonic() < give_up_s:
        time.sleep(0.01)
    assert not _runs(pid)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_what_is_missing_is_named() -> None:
    assert gpu_all.missing(["json", "no_such_module", "no_such_package.inside"]) == [
        "no_such_module",
        "no_such_package.inside",
    ]
    assert gpu_all.missing() == []


def test_the_bundle_takes_the_pinned_versions_and_never_torch() -> None:
    wanted = gpu_bundle.pins((ROOT / "constraints.txt").read_text())
    names = {line.partition("==")[0] for line in wanted}
    assert names == set(gpu_bundle.NAMES)
    assert not names & {"torch", "numpy", "scipy", "transformers", "triton"}
    assert "--python-version=3.12" in gpu_bundle.command("3.12", Path("x"), wanted, "x86_64")
    with pytest.raises(ValueError, match="does not pin nothing-like-it"):
        gpu_bundle.pins("a==1", ["nothing-like-it"])
