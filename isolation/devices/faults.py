"""What a device's fault means, what is done about it, and what is promised to whom.

The table follows NVIDIA's Xid catalogue (docs.nvidia.com/deploy/xid-errors, resolution buckets RESTART_APP, RESET_GPU,
...): application faults 13, 31 and 43 and contained ECC errors (94) end one worker; 48, 79 and uncontained errors end
the device. Rows of which the catalogue leaves a choice (63, 64, 74, 119, 120) and unknown numbers drain or fence:
wrong in the safe direction. Blast radius under MPS is the documented one, every client of the GPU: that a device-side
assert and a kill -9 spared the neighbours on an H100 is a measurement, not a promise.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from isolation.devices.facts import DeviceEvent, EventKind
from partywall.domain.fleet import PartitionKind


class Action(enum.StrEnum):
    """What the node does, mildest first."""

    NOTE = "note"
    RESTART_WORKER = "restart_worker"
    DRAIN_DEVICE = "drain_device"
    FENCE_DEVICE = "fence_device"


class Blast(enum.StrEnum):
    """Who is hit beside the worker that caused it."""

    NOBODY = "nobody"
    PARTITION = "partition"
    DEVICE = "device"


@dataclass(frozen=True, slots=True)
class FaultClass:
    """One row: what it is, what we do, what we promise."""

    name: str
    action: Action
    contained: bool
    promise: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """A row applied to an event beside a kind of partition. `sentence` goes into the event log."""

    fault: FaultClass
    action: Action
    blast: Blast
    sentence: str


_RESTART = "its requests in flight fail UNAVAILABLE; the worker is started again"
_DRAIN = "accepted work may finish; nothing new is placed until the GPU was reset"
_FENCE = "everything on the GPU is gone; its placements move; an operator must act"

XIDS: dict[int, FaultClass] = {
    13: FaultClass("graphics engine exception", Action.RESTART_WORKER, True, _RESTART),
    31: FaultClass("GPU memory page fault", Action.RESTART_WORKER, True, _RESTART),
    43: FaultClass("GPU stopped processing", Action.RESTART_WORKER, True, _RESTART),
    45: FaultClass("preemptive cleanup of an ended process", Action.NOTE, True, "follows an earlier fault"),
    48: FaultClass("double-bit ECC error", Action.DRAIN_DEVICE, False, _DRAIN),
    63: FaultClass("ECC row remapping recorded", Action.DRAIN_DEVICE, False, _DRAIN),
    64: FaultClass("ECC row remapping failed", Action.DRAIN_DEVICE, False, _DRAIN),
    74: FaultClass("NVLink error", Action.DRAIN_DEVICE, False, _DRAIN),
    79: FaultClass("GPU has fallen off the bus", Action.FENCE_DEVICE, False, _FENCE),
    94: FaultClass("contained ECC error", Action.RESTART_WORKER, True, _RESTART),
    95: FaultClass("uncontained ECC error", Action.DRAIN_DEVICE, False, _DRAIN),
    119: FaultClass("GSP timeout", Action.FENCE_DEVICE, False, _FENCE),
    120: FaultClass("GSP error", Action.FENCE_DEVICE, False, _FENCE),
}
_UNKNOWN_XID = FaultClass("Xid not in the table", Action.DRAIN_DEVICE, False, _DRAIN)
_OTHER = {
    EventKind.ECC_DOUBLE_BIT: FaultClass("double-bit ECC error", Action.DRAIN_DEVICE, False, _DRAIN),
    EventKind.ECC_SINGLE_BIT: FaultClass("corrected single-bit ECC error", Action.NOTE, True, "nothing is lost"),
    EventKind.MIG_CHANGED: FaultClass("MIG layout changed", Action.NOTE, True, "the layout is read again"),
}


def classify(event: DeviceEvent, partition_kind: PartitionKind) -> Verdict:
    """What to do about an event on a device shared in this way.

    An unknown Xid drains the device: wrong in the safe direction.
    """
    fault = XIDS.get(event.code, _UNKNOWN_XID) if event.kind is EventKind.XID else _OTHER[event.kind]
    blast = _blast(fault, partition_kind)
    number = f"Xid {event.code}, " if event.kind is EventKind.XID else ""
    hit = {
        Blast.NOBODY: "no neighbour is hit",
        Blast.PARTITION: "only this MIG instance is hit",
        Blast.DEVICE: "every worker on this GPU is hit",
    }[blast]
    sentence = f"{event.gpu_uuid}: {number}{fault.name}: {hit}; {fault.promise}"
    return Verdict(fault, fault.action, blast, sentence)


def _blast(fault: FaultClass, kind: PartitionKind) -> Blast:
    if fault.action is Action.NOTE:
        return Blast.NOBODY
    if not fault.contained:
        return Blast.DEVICE
    return {PartitionKind.MIG: Blast.PARTITION, PartitionKind.MPS: Blast.DEVICE}.get(kind, Blast.NOBODY)


class CudaFault(enum.IntEnum):
    """Codes a worker's CUDA calls answer with (cuda.h) and of which the supervisor must make something."""

    OUT_OF_MEMORY = 2
    ECC_UNCORRECTABLE = 214
    ILLEGAL_ADDRESS = 700
    ASSERT = 710
    LAUNCH_FAILED = 719
    MPS_CONNECTION_FAILED = 805
    MPS_RPC_FAILURE = 806
    MPS_SERVER_NOT_READY = 807
    MPS_MAX_CLIENTS = 808
    MPS_MAX_CONNECTIONS = 809
    MPS_CLIENT_TERMINATED = 810


class CudaReaction(enum.StrEnum):
    """`fail_request`: RESOURCE_EXHAUSTED to this caller, the worker goes on."""

    FAIL_REQUEST = "fail_request"
    RETRY_LATER = "retry_later"
    PLACE_ELSEWHERE = "place_elsewhere"
    WORKER_IS_DEAD = "worker_is_dead"


CUDA_REACTIONS: dict[CudaFault, CudaReaction] = {
    CudaFault.OUT_OF_MEMORY: CudaReaction.FAIL_REQUEST,
    # After these the context is broken for good: every later call answers the same.
    CudaFault.ECC_UNCORRECTABLE: CudaReaction.WORKER_IS_DEAD,
    CudaFault.ILLEGAL_ADDRESS: CudaReaction.WORKER_IS_DEAD,
    CudaFault.ASSERT: CudaReaction.WORKER_IS_DEAD,
    CudaFault.LAUNCH_FAILED: CudaReaction.WORKER_IS_DEAD,
    CudaFault.MPS_CONNECTION_FAILED: CudaReaction.WORKER_IS_DEAD,
    CudaFault.MPS_RPC_FAILURE: CudaReaction.WORKER_IS_DEAD,
    CudaFault.MPS_SERVER_NOT_READY: CudaReaction.RETRY_LATER,
    CudaFault.MPS_MAX_CLIENTS: CudaReaction.PLACE_ELSEWHERE,
    CudaFault.MPS_MAX_CONNECTIONS: CudaReaction.PLACE_ELSEWHERE,
    CudaFault.MPS_CLIENT_TERMINATED: CudaReaction.WORKER_IS_DEAD,
}
_WATCHDOG_FACTOR = 3.0


def watchdog_s(predicted_s: float, floor_s: float) -> float:
    """When a running batch counts as stuck: three times its predicted time, and never below the floor."""
    return max(_WATCHDOG_FACTOR * predicted_s, floor_s)
