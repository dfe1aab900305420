"""When a call is sent again: a pure policy and a budget. Time and chance are parameters.

Only calls that certainly were not executed are repeated, unless the caller says that the call is idempotent. A passed
deadline is never retried. The back-off is jittered exponential (full jitter); the budget is Finagle's: retries may be
20 % of the requests of the last 10 s, plus 10 per second, so that clients cannot multiply an overload.
"""

from __future__ import annotations

import random
import threading
from collections import deque
from dataclasses import dataclass

from partywall.clock import Clock
from partywall.errors import Overloaded, PartywallError, QuotaExceeded, Reason, Unavailable

EXECUTED_FIELD = "executed"
"""Set to "no" in `PartywallError.fields` where the request certainly reached nobody."""

_UNEXECUTED = frozenset({Reason.NO_REPLICA, Reason.DRAINING, Reason.STORE_UNAVAILABLE})
_REPEATABLE = _UNEXECUTED | {Reason.UNREACHABLE, Reason.AGENT_LOST, Reason.WORKER_DIED}


def never_executed(error: PartywallError) -> bool:
    """Whether it is certain that no work was done for the failed call."""
    if isinstance(error, (Overloaded, QuotaExceeded)):
        return True
    return isinstance(error, Unavailable) and (error.reason in _UNEXECUTED or error.fields.get(EXECUTED_FIELD) == "no")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how soon. `max_tries` counts the first one."""

    max_tries: int = 3
    first_backoff_s: float = 0.05
    max_backoff_s: float = 2.0
    hint_jitter: float = 0.25
    """Spread added to a server's hint, as a share of it: callers that were refused together come back apart."""

    def delay_s(
        self, error: PartywallError, *, tries: int, time_left_s: float, idempotent: bool, rng: random.Random
    ) -> float | None:
        """Seconds to wait before the next try, or None to give up.

        Args:
            error: What the last try ended with.
            tries: Tries so far, at least one.
            time_left_s: Until the caller's deadline.
            idempotent: The call may be repeated even where it may have been executed.
        """
        if tries >= self.max_tries or not self._may_repeat(error, idempotent=idempotent):
            return None
        ceiling = min(self.max_backoff_s, self.first_backoff_s * 2 ** (tries - 1))
        delay = ceiling * rng.random()
        if error.retry_after_s is not None:
            delay = max(delay, error.retry_after_s * (1 + self.hint_jitter * rng.random()))
        return delay if delay < time_left_s else None

    def _may_repeat(self, error: PartywallError, *, idempotent: bool) -> bool:
        if isinstance(error, (Overloaded, QuotaExceeded)):
            return error.retry_after_s is not None
        if not isinstance(error, Unavailable):
            return False
        return never_executed(error) or (idempotent and error.reason in _REPEATABLE)


class RetryBudget:
    """Finagle's retry budget (twitter/finagle, `RetryBudget`): a window of deposits and withdrawals. Thread-safe."""

    def __init__(self, clock: Clock, *, ratio: float = 0.2, min_per_s: float = 10.0, window_s: float = 10.0) -> None:
        self._clock = clock
        self._ratio = ratio
        self._reserve = min_per_s * window_s
        self._window_s = window_s
        self._lock = threading.Lock()
        # [start, requests, retries]: one entry a second, so that the window costs nothing at high rates.
        self._slots: deque[list[float]] = deque()

    def deposit(self) -> None:
        """Counts one request of the caller's own."""
        with self._lock:
            self._current_slot()[1] += 1

    def try_withdraw(self) -> bool:
        """Takes one retry out of the budget; False leaves it untouched."""
        with self._lock:
            slot = self._current_slot()
            allowed = self._reserve + self._ratio * sum(requests for _, requests, _ in self._slots)
            if sum(retries for _, _, retries in self._slots) + 1 > allowed:
                return False
            slot[2] += 1
            return True

    def _current_slot(self) -> list[float]:
        now = self._clock.monotonic()
        while self._slots and self._slots[0][0] <= now - self._window_s:
            self._slots.popleft()
        if not self._slots or self._slots[-1][0] + 1.0 <= now:
            self._slots.append([now, 0, 0])
        return self._slots[-1]
