"""Faults: the table's rows, who is hit beside which wall, and the sentence that says so."""

from __future__ import annotations

import pytest

from isolation.devices.facts import DeviceEvent, EventKind
from isolation.devices.faults import (
    CUDA_REACTIONS,
    XIDS,
    Action,
    Blast,
    CudaFault,
    CudaReaction,
    classify,
    watchdog_s,
)
from partywall.domain.fleet import PartitionKind

GPU = "GPU-1"


@pytest.mark.parametrize(
    ("xid", "kind", "action", "blast"),
    [
        (13, PartitionKind.WHOLE, Action.RESTART_WORKER, Blast.NOBODY),
        (31, PartitionKind.MPS, Action.RESTART_WORKER, Blast.DEVICE),
        (43, PartitionKind.MIG, Action.RESTART_WORKER, Blast.PARTITION),
        (94, PartitionKind.MIG, Action.RESTART_WORKER, Blast.PARTITION),
        (48, PartitionKind.MIG, Action.DRAIN_DEVICE, Blast.DEVICE),
        (63, PartitionKind.WHOLE, Action.DRAIN_DEVICE, Blast.DEVICE),
        (95, PartitionKind.MPS, Action.DRAIN_DEVICE, Blast.DEVICE),
        (79, PartitionKind.MIG, Action.FENCE_DEVICE, Blast.DEVICE),
        (45, PartitionKind.MPS, Action.NOTE, Blast.NOBODY),
        (4711, PartitionKind.MIG, Action.DRAIN_DEVICE, Blast.DEVICE),
    ],
)
def test_xids(xid: int, kind: PartitionKind, action: Action, blast: Blast) -> None:
    verdict = classify(DeviceEvent(EventKind.XID, GPU, xid), kind)
    assert (verdict.action, verdict.blast) == (action, blast)


@pytest.mark.parametrize(
    ("event", "action"),
    [
        (EventKind.ECC_DOUBLE_BIT, Action.DRAIN_DEVICE),
        (EventKind.ECC_SINGLE_BIT, Action.NOTE),
        (EventKind.MIG_CHANGED, Action.NOTE),
    ],
)
def test_other_events(event: EventKind, action: Action) -> None:
    assert classify(DeviceEvent(event, GPU), PartitionKind.MPS).action is action


@pytest.mark.parametrize("xid", sorted(XIDS))
@pytest.mark.parametrize("kind", list(PartitionKind))
def test_no_fault_promises_more_than_the_hardware_holds(xid: int, kind: PartitionKind) -> None:
    verdict = classify(DeviceEvent(EventKind.XID, GPU, xid), kind)
    if verdict.action in (Action.DRAIN_DEVICE, Action.FENCE_DEVICE):
        assert verdict.blast is Blast.DEVICE
    if verdict.blast is Blast.DEVICE:
        assert "every worker on this GPU is hit" in verdict.sentence
    assert f"Xid {xid}, " in verdict.sentence


def test_every_cuda_fault_has_a_reaction() -> None:
    assert set(CUDA_REACTIONS) == set(CudaFault)
    assert CUDA_REACTIONS[CudaFault.OUT_OF_MEMORY] is CudaReaction.FAIL_REQUEST
    assert CUDA_REACTIONS[CudaFault.MPS_SERVER_NOT_READY] is CudaReaction.RETRY_LATER
    assert CUDA_REACTIONS[CudaFault.MPS_MAX_CLIENTS] is CudaReaction.PLACE_ELSEWHERE


@pytest.mark.parametrize(("predicted_s", "expected_s"), [(0.01, 1.0), (2.0, 6.0)])
def test_the_watchdog_waits_three_times_the_prediction(predicted_s: float, expected_s: float) -> None:
    assert watchdog_s(predicted_s, floor_s=1.0) == pytest.approx(expected_s)
