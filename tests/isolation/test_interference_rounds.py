"""Rounds and plans: what makes a run steady, and which runs are made."""

from __future__ import annotations

from dataclasses import replace

import pytest

from isolation.interference.plans import batch_sizes, core_shares, plan_for
from isolation.interference.rounds import Pace, Round, combine, relative_spread, window_mean_ms
from partywall.domain.fleet import Device, DeviceKind, PartitionKind
from partywall.domain.profiles import Resource
from partywall.errors import InvalidInput


def cpu(cores: int) -> Device:
    return Device("cpu", DeviceKind.CPU, "some CPU", 1 << 30, cores, tuple(range(cores)))


GPU = Device("gpu", DeviceKind.GPU, "some GPU", 1 << 36, 132)


def test_a_drifting_machine_does_not_move_the_slowdown() -> None:
    # The clock falls by 3 % a window: a solo taken once, at the start, would read 1.28 instead of 1.2.
    clock = [1.03**k for k in range(11)]
    rounds = [Round(10 * clock[2 * k], 12 * clock[2 * k + 1], 10 * clock[2 * k + 2], 1.0, 1.5) for k in range(5)]
    found = combine(rounds)
    assert found.latency_ms / found.alone_ms == pytest.approx(1.2)
    assert found.probe_slowdown == 1.5
    assert found.spread == pytest.approx(0.0, abs=1e-9)


def test_one_disturbed_round_changes_nothing() -> None:
    steady = Round(10.0, 12.0, 10.0, 1.0, 1.5)
    disturbed = Round(10.0, 60.0, 10.0, 1.0, 9.0)
    found = combine([steady, disturbed, steady, steady, steady])
    assert found.latency_ms == pytest.approx(12.0)
    assert found.probe_slowdown == 1.5
    with pytest.raises(InvalidInput, match="rounds"):
        combine([])


def test_a_window_s_mean_leaves_both_ends_out() -> None:
    assert window_mean_ms([0.001] * 18 + [0.5, 0.0]) == pytest.approx(1.0)
    with pytest.raises(InvalidInput, match="longer windows"):
        window_mean_ms([])
    assert relative_spread([1.0, 1.0, 2.0]) == pytest.approx(0.5)


def test_windows_grow_with_batches_up_to_a_limit() -> None:
    pace = Pace(window_s=0.4, least_batches=8, longest_s=3.0)
    assert [pace.window_for(s) for s in (0.001, 0.1, 10.0)] == [0.4, 0.8, 3.0]
    with pytest.raises(InvalidInput, match="pace"):
        Pace(rounds=0)


@pytest.mark.parametrize(
    ("cores", "shares"),
    [(1, (100,)), (2, (50, 100)), (3, (33, 67, 100)), (4, (25, 50, 75, 100)), (64, (25, 50, 75, 100))],
)
def test_shares_of_a_cpu_are_whole_cores(cores: int, shares: tuple[int, ...]) -> None:
    assert core_shares(cores) == shares


def test_about_twenty_runs() -> None:
    assert len(plan_for(cpu(2), max_batch=32).steps()) == 16
    assert len(plan_for(cpu(2), max_batch=32, quick=True).steps()) == 6
    assert len(plan_for(GPU, max_batch=32, shares=(50, 100)).steps()) < 30
    one = plan_for(cpu(1), max_batch=8)
    assert [s.probe for s in one.steps()] == [None] * 3


def test_a_gpu_is_probed_on_its_own_resources() -> None:
    plan = plan_for(GPU, max_batch=1, quick=True)
    assert [p.resource for p in plan.probes] == [Resource.DRAM, Resource.RANDOM]
    assert plan.pairs == ((50, 50),)


def test_a_gpu_without_mps_is_measured_alone() -> None:
    bare = replace(GPU, kinds=(PartitionKind.WHOLE, PartitionKind.MIG))
    assert {s.probe for s in plan_for(bare, max_batch=4).steps()} == {None}
    assert plan_for(replace(GPU, kinds=(PartitionKind.MPS,)), max_batch=4).pairs


def test_batch_sizes_end_at_the_limit() -> None:
    assert batch_sizes(32, 1) == (1, 4, 16, 32)
    assert batch_sizes(0, 1) == (1,)
    assert batch_sizes(512, 256) == (1, 4, 16, 64, 256)


@pytest.mark.parametrize(("rows", "shares", "word"), [(9, (), "batch"), (1, (0,), "shares"), (1, (101,), "shares")])
def test_bad_plans_are_refused(rows: int, shares: tuple[int, ...], word: str) -> None:
    with pytest.raises(InvalidInput, match=word):
        plan_for(cpu(2), max_batch=8, rows=rows, shares=shares)
