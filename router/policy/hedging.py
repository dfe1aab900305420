"""When a request is tried on a second replica: after a failure (retry) or because it is late (hedge). Pure.

A retry follows a failure of the first replica; a hedge is sent while the first is still at work, and the first answer
wins. Both draw on one token budget, so that they can never multiply an overload, and neither is tried unless the second
replica's predicted finish meets the deadline. Hedging after a high quantile of the expected time is Dean and Barroso's
(The Tail at Scale, CACM 2013); a budget in proportion to the requests is Finagle's.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

from partywall.errors import PartywallError, Reason, Unavailable

_UNEXECUTED = frozenset({Reason.NO_REPLICA, Reason.DRAINING})
_MAYBE_EXECUTED = frozenset({Reason.AGENT_LOST, Reason.WORKER_DIED})


@dataclass(frozen=True, slots=True)
class HedgeLimits:
    """`ratio` tokens come with each request, at most `burst` are kept; a try costs one.

    `quantile` of actual over predicted time is what a request may take before it is hedged, but never less than
    `least_delay_s`; nothing is hedged before `least_samples` were seen. `deaths`: a request whose worker died under it
    this often is not tried again, since it may be what kills them.
    """

    retry: bool = True
    hedge: bool = True
    ratio: float = 0.1
    burst: float = 100.0
    tries: int = 3
    deaths: int = 2
    quantile: float = 0.95
    least_delay_s: float = 0.005
    least_samples: int = 64
    window: int = 512


class TokenBudget:
    """Tokens that come with requests and are spent on extra tries. Starts half full."""

    __slots__ = ("_burst", "_ratio", "tokens")

    def __init__(self, limits: HedgeLimits) -> None:
        self._ratio = limits.ratio
        self._burst = limits.burst
        self.tokens = limits.burst / 2

    def deposit(self) -> None:
        """A request came in."""
        self.tokens = min(self._burst, self.tokens + self._ratio)

    def withdraw(self) -> bool:
        """Takes a token for one more try; False when there is none."""
        if self.tokens < 1.0:
            return False
        self.tokens -= 1.0
        return True


class Lateness:
    """How long requests take in proportion to what was predicted: a quantile over the last `window` of them."""

    __slots__ = ("_limits", "_quantile", "_ratios", "_since")

    def __init__(self, limits: HedgeLimits) -> None:
        self._limits = limits
        self._ratios: deque[float] = deque(maxlen=limits.window)
        self._since = 0
        self._quantile: float | None = None

    def observe(self, predicted_s: float, actual_s: float) -> None:
        """One answered request that was tried once; a prediction of zero teaches nothing."""
        if predicted_s <= 0 or actual_s < 0:
            return
        self._ratios.append(actual_s / predicted_s)
        self._since += 1

    def delay_s(self, predicted_s: float) -> float | None:
        """Seconds after which a request with this prediction is late; None while too little is known."""
        limits = self._limits
        if predicted_s <= 0 or len(self._ratios) < limits.least_samples:
            return None
        if self._quantile is None or self._since >= limits.least_samples:
            # Sorted now and then: the quantile moves slowly, requests come fast.
            ordered = sorted(self._ratios)
            self._quantile = ordered[min(len(ordered) - 1, math.ceil(limits.quantile * len(ordered)))]
            self._since = 0
        return max(limits.least_delay_s, predicted_s * self._quantile)


@dataclass(frozen=True, slots=True)
class Failure:
    """What is known when a try failed. Times in seconds; `deaths` counts this one if a worker died."""

    error: PartywallError
    tries: int
    deaths: int
    left_s: float
    repeatable: bool
    """Whether running the request twice does no harm (inference without side effects)."""


def may_retry(failure: Failure, limits: HedgeLimits) -> bool:
    """Whether a failed try may be repeated on another replica, tokens and deadline of that replica aside.

    What certainly was not executed may always be repeated; what may have been, only where that does no harm.
    """
    error = failure.error
    if not limits.retry or failure.left_s <= 0 or failure.tries >= limits.tries:
        return False
    if not isinstance(error, Unavailable):
        return False
    if error.reason in _UNEXECUTED:
        return True
    return error.reason in _MAYBE_EXECUTED and failure.repeatable and failure.deaths < limits.deaths


def worth_hedging(waited_s: float, first_predicted_s: float, second_predicted_s: float, left_s: float) -> bool:
    """Whether a second try would probably be done sooner than the first and within the deadline.

    The first has `first_predicted_s` minus what was waited to go if it is on time; it is late, so at least as long as
    the whole prediction is assumed where that has passed.
    """
    if second_predicted_s > left_s:
        return False
    to_go_s = first_predicted_s - waited_s if waited_s < first_predicted_s else waited_s
    return second_predicted_s <= to_go_s
