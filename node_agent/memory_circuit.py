"""A circuit for batches that run out of memory: after three in a minute a replica takes no more of that size. Pure.

Out of memory is an error of one request. A replica whose batches fail for it over and over serves every one of their
requests twice, the second time alone, and shakes the allocator that its neighbours under MPS share; so it is told apart
from one unlucky request.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from partywall.errors import QuotaExceeded, Reason

FAILURES = 3
WINDOW_S = 60.0
OPEN_S = 600.0
"""How long the limit holds; afterwards one failure is enough to bring it back."""


@dataclass(slots=True)
class MemoryCircuit:
    """One replica's. Times are seconds on the agent's monotonic clock.

    Attributes:
        limit_rows: Most rows of a batch or a request; 0: no limit but the replica's own.
    """

    limit_rows: int = 0
    _failed: deque[tuple[float, int]] = field(default_factory=deque)
    _until_s: float = float("-inf")

    def failed(self, rows: int, now_s: float) -> bool:
        """Books a run of so many rows that ran out of memory; True: the limit is new or lower."""
        self._failed.append((now_s, rows))
        while self._failed[0][0] <= now_s - WINDOW_S:
            self._failed.popleft()
        on_trial = now_s < self._until_s + OPEN_S
        if len(self._failed) < FAILURES and not on_trial:
            return False
        before = self.limit_rows
        # A single row that does not fit leaves nothing to be made smaller: others may have shorter sequences.
        self.limit_rows = max(1, min(size for _, size in self._failed) - 1)
        self._until_s = now_s + OPEN_S
        return self.limit_rows != before

    def lifted(self, now_s: float) -> bool:
        """Whether the limit's time is over, which takes it away."""
        if not self.limit_rows or now_s < self._until_s:
            return False
        self.limit_rows = 0
        self._failed.clear()
        return True

    def refusal(self, rows: int) -> QuotaExceeded | None:
        """The error of a request that the limit does not let through; None: it may be queued."""
        if not self.limit_rows or rows <= self.limit_rows:
            return None
        return QuotaExceeded(
            f"requests of more than {self.limit_rows} rows ran out of the partition's memory; send fewer rows, or give "
            "the model a larger partition; nothing was executed",
            reason=Reason.OUT_OF_MEMORY,
            fields={"most_rows": str(self.limit_rows), "executed": "false"},
        )
