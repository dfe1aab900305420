"""What happened on a node that an operator should know: walls that do not stand, faults, stuck batches."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import datetime


class EventName(enum.StrEnum):
    """What it is; new names may come, so readers keep an unknown one as it is."""

    WALL_MISMATCH = "wall_mismatch"
    WORKER_STUCK = "worker_stuck"
    WORKER_DIED = "worker_died"
    MEMORY_EXHAUSTED = "memory_exhausted"
    DEVICE_FAULT = "device_fault"
    DEVICE_LOST = "device_lost"
    DEVICE_OBSERVED = "device_observed"
    """The driver refused a change: what stands on the device is used, nothing is made there any more."""
    MPS_FAULT = "mps_fault"
    KEY_UNUSABLE = "key_unusable"
    """The router cannot unwrap the data key of what should be loaded there."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event. `device_id` and `placement_id` are empty where it has none; `code` is a driver's number or 0."""

    id: str
    at: datetime
    kind: str
    node: str
    message: str
    device_id: str = ""
    placement_id: str = ""
    code: int = 0
