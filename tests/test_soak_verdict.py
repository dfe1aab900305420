"""The soak's verdict: each kind of fault is found; a leak is told from noise."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.soaking.ledger import HEAD, Ledger
from benchmarks.soaking.verdict import Account, Seen, growth, settle

ROOT = Path(__file__).resolve().parents[1]


def account(*pairs: tuple[int, int]) -> Account:
    """Of (what the caller saw, how often it was executed), numbered from 1 on."""
    seen = np.array([0, *(saw for saw, _ in pairs)], np.uint8)
    return settle(seen, np.array([0, *(ran for _, ran in pairs)], np.int64))


GOOD = [(Seen.OK, 1), (Seen.REFUSED, 0), (Seen.UNKNOWN, 0), (Seen.UNKNOWN, 1)]


def test_a_sound_run_is_sound() -> None:
    found = account(*GOOD)
    assert found.ok
    assert (found.sent, found.executed) == (4, 2)
    assert found.seen == {"OK": 1, "REFUSED": 1, "UNKNOWN": 2}


@pytest.mark.parametrize(
    ("fault", "name"),
    [
        ((Seen.OK, 2), "executed_twice"),
        ((Seen.UNKNOWN, 2), "executed_twice"),
        ((Seen.OK, 0), "answered_unexecuted"),
        ((Seen.REFUSED, 1), "refused_executed"),
    ],
)
def test_each_fault_is_found(fault: tuple[int, int], name: str) -> None:
    found = account(*GOOD, fault)
    assert not found.ok
    assert getattr(found, name) == 1


@pytest.mark.parametrize("saw", [Seen.WRONG, Seen.LOST])
def test_wrong_answers_and_lost_calls_are_faults(saw: Seen) -> None:
    assert not account(*GOOD, (saw, 1)).ok


def test_growth_is_of_the_second_half() -> None:
    times = [float(second) for second in range(600)]
    warm = [min(100.0, 50.0 + second) for second in times]
    assert growth("router", times, warm).flat
    # Bursts lift the peaks, later ones more: no leak.
    bursts = [100.0 + (second / 10.0 if second % 15 < 5 else 0.0) for second in times]
    assert growth("router", times, bursts).flat
    leak = [100.0 + second / 60.0 for second in times]
    found = growth("router", times, leak)
    assert not found.flat
    assert found.slope_mib_per_min == pytest.approx(1.0, rel=0.05)


def test_a_window_is_longer_than_what_lies_between_two_trims() -> None:
    # A floor every ten seconds, and a run so short that tenths of its half would miss it.
    times = [float(second) for second in range(0, 120, 2)]
    sawtooth = [100.0 + second % 10 + (3.0 if second >= 90 and second % 10 else 0.0) for second in times]
    found = growth("worker", times, sawtooth)
    assert found.flat
    assert (found.middle_mib, found.end_mib) == (100.0, 100.0)


def test_the_ledger_counts_answers_and_tells() -> None:
    ledger = Ledger()
    rows = torch.tensor([[5, 0, 7, 8], [6, 0, 1, 2], [5, 0, 7, 8]])
    answer = ledger(rows)
    assert answer[:, 0].tolist() == [5, 6, 5]
    assert answer[0, HEAD:].tolist() == [~7, ~8]
    assert ledger(rows[:1])[0, 1] == 3
    # Blocks of two: block 2 holds the numbers 4 and 5, block 3 holds 6 and 7.
    assert ledger(torch.tensor([[-3, 0, 0, 0]]))[0].tolist() == [-3, 0, 0, 3]
    assert ledger(torch.tensor([[-4, 0, 0, 0]]))[0].tolist() == [-4, 0, 1, 0]
    assert ledger(torch.zeros((1, 1), dtype=torch.int64)).tolist() == [[0]]


@pytest.mark.e2e
def test_a_short_soak_finds_nothing(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "soak.py"), "--minutes", "0.1", "--load", "0.5"]
    subprocess.run([*command, "--out", str(tmp_path)], capture_output=True, timeout=200, check=False, cwd=ROOT)
    found = json.loads((tmp_path / "soak.json").read_text())
    assert found["ok"], found["account"]
    assert found["account"]["seen"]["OK"] > 0
    assert found["connection_resets"] > 0
    assert "nothing lost, nothing twice" in (tmp_path / "soak.md").read_text()
