"""The waiting requests of one replica: a heap by due time that forgets what was cancelled. Pure."""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass, field

from partywall.domain.service_time import ServiceTime

MOST_CANCELLED = 64
"""So many, and more than half of a replica's queue, before the queue is made anew without them."""


@dataclass(slots=True)
class Queued:
    """One waiting request. Times are seconds on the agent's monotonic clock.

    `deadline_s` is when the caller stops waiting; `due_s` orders the queue: the earlier of the deadline and the
    model's objective. Not frozen: it is made once per request on the hot road.
    """

    id: int
    handle: int
    rows: int
    request: bytes | memoryview
    arrived_s: float
    deadline_s: float
    due_s: float
    context: object = None
    cancelled: bool = False


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """What one batch of a replica may hold. `max_rows` 1 switches batching off."""

    max_rows: int = 1
    max_bytes: int = 32 << 20


@dataclass(slots=True)
class Lane:
    """The waiting requests of one replica."""

    limits: BatchLimits
    tenant: str = ""
    service: ServiceTime = field(default_factory=ServiceTime)
    heap: list[tuple[float, int, Queued]] = field(default_factory=list)
    rows: int = 0
    cancelled: int = 0
    """Entries of the heap that nobody waits for any more."""
    charged_s: deque[float] = field(default_factory=lambda: deque(maxlen=8))
    """What was charged for batches that are not observed yet."""

    def waiting(self) -> list[Queued]:
        """What somebody still waits for, in no order."""
        return [item for _, _, item in self.heap if not item.cancelled]

    def backlog_s(self) -> float:
        """Expected seconds of the work that waits, batched as it would run."""
        if not self.rows:
            return 0.0
        full, rest = divmod(self.rows, self.limits.max_rows)
        seconds = full * self.service.mean_s(self.limits.max_rows)
        return seconds + (self.service.mean_s(rest) if rest else 0.0)

    def cancel(self, item: Queued) -> None:
        """Marks a waiting request; the heap is made anew when many are marked."""
        item.cancelled = True
        # Behind requests that are due earlier it may lie here for long: what it held must not.
        item.request = b""
        self.rows -= item.rows
        self.cancelled += 1
        if self.cancelled > MOST_CANCELLED and 2 * self.cancelled > len(self.heap):
            self.heap = [entry for entry in self.heap if not entry[2].cancelled]
            heapq.heapify(self.heap)
            self.cancelled = 0
