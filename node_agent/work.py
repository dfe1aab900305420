"""What an agent gives a worker to do, and what comes back."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass

from partywall.domain.models import Signature
from partywall.errors import PartywallError


@dataclass(frozen=True, slots=True)
class WorkItem:
    """One request: a serialised `inference.ModelInferRequest`. `deadline_us` is CLOCK_MONOTONIC, 0 for none."""

    id: int
    request: bytes | memoryview
    deadline_us: int = 0


@dataclass(frozen=True, slots=True)
class Batch:
    """Requests for one replica, run together where its signature allows it; `repeat` times, answered once."""

    handle: int
    items: Sequence[WorkItem]
    repeat: int = 1


@dataclass(slots=True)
class WorkResult:
    """The serialised `inference.ModelInferResponse`, or the error of this request alone."""

    id: int
    response: bytes
    error: PartywallError | None = None


@dataclass(frozen=True, slots=True)
class BatchDone:
    """Results in the order of the batch's items; `service_us` is the whole batch's time in the worker.

    `exhausted_rows`: the fewest rows that ran out of memory when they were run together; 0: nothing did.
    """

    handle: int
    results: Sequence[WorkResult]
    service_us: int
    exhausted_rows: int = 0


@dataclass(frozen=True, slots=True)
class LoadResult:
    """What the worker found when it loaded a replica. A refusal is raised, not returned."""

    handle: int
    signature: Signature
    memory_bytes: int
    load_seconds: float
    woken_bytes: int = 0
    """What was copied onto the device where it came back from parked weights."""
    wake_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class ParkResult:
    """What became of a replica that was to be parked. Not `kept`: it is unloaded, for `reason`.

    `host_bytes` is what its weights hold in host memory; `moved_bytes` what was copied off the device in `seconds`, 0
    where they lay in host memory anyway; `device_bytes` what the worker's allocator has left of the device.
    """

    kept: bool
    reason: str = ""
    host_bytes: int = 0
    moved_bytes: int = 0
    seconds: float = 0.0
    pinned: bool = False
    device_bytes: int = 0


@dataclass(frozen=True, slots=True)
class WorkerExit:
    """How a worker ended: `code` is its exit status, the negative number of a signal, or None when nobody saw it."""

    worker_id: str
    pid: int
    code: int | None
    message: str


def describe_exit(code: int | None) -> str:
    """A sentence about an exit status."""
    if code is None:
        return "ended without a status"
    if code < 0:
        try:
            return f"killed by {signal.Signals(-code).name}"
        except ValueError:
            return f"killed by signal {-code}"
    return "ended in order" if code == 0 else f"exited with status {code}"
