"""Admission of one request over its replicas, and the budget for asking twice. Pure.

Clockwork's discipline (OSDI'20): the finish is predicted before any work is done, from the backlog and the service time
times the upper bound of the slowdown by neighbours; a request that cannot make it anywhere is refused at once. Asking
twice (retry after a lost worker, hedge of a straggler) draws on a budget that requests fill (Finagle's retry
budget), so that a struggling fleet is not sent more than it was asked.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass


class Verdict(enum.StrEnum):
    """What happens to a request now."""

    RUN = "run"
    QUEUE = "queue"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class ReplicaView:
    """What is known of one replica. Seconds; `slowdown_upper` covers its neighbours at their bounds."""

    backlog_s: float
    service_s: float
    slowdown_upper: float = 1.0
    ready_in_s: float = 0.0

    @property
    def finish_s(self) -> float:
        """Upper bound of the finish of one more request, from now."""
        return max(self.backlog_s * self.slowdown_upper, self.ready_in_s) + self.service_s * self.slowdown_upper


@dataclass(frozen=True, slots=True)
class Admission:
    """The verdict and its numbers; `replica` is None when refused."""

    verdict: Verdict
    replica: int | None
    finish_s: float
    retry_after_s: float = 0.0


def admit(replicas: Sequence[ReplicaView], budget_s: float) -> Admission:
    """Takes the replica with the earliest predicted finish, or refuses when that is later than `budget_s` from now."""
    if not replicas:
        return Admission(Verdict.REFUSE, None, float("inf"))
    best = min(range(len(replicas)), key=lambda at: (replicas[at].finish_s, at))
    finish_s = replicas[best].finish_s
    if finish_s > budget_s:
        return Admission(Verdict.REFUSE, None, finish_s, retry_after_s=finish_s - budget_s)
    idle = replicas[best].backlog_s <= 0 and replicas[best].ready_in_s <= 0
    return Admission(Verdict.RUN if idle else Verdict.QUEUE, best, finish_s)


class RetryBudget:
    """Second tries allowed: `ratio` of first tries, and `floor_per_s` for quiet times; at most ten seconds' worth."""

    __slots__ = ("_floor_per_s", "_last_s", "_ratio", "_tokens")

    def __init__(self, ratio: float = 0.1, floor_per_s: float = 1.0) -> None:
        self._ratio = ratio
        self._floor_per_s = floor_per_s
        self._tokens = floor_per_s
        self._last_s: float | None = None

    def first_try(self, now_s: float) -> None:
        """A request was sent for the first time."""
        self._refill(now_s)
        self._tokens += self._ratio

    def may_try_again(self, now_s: float) -> bool:
        """Takes one second try out of the budget, if there is one."""
        self._refill(now_s)
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True

    def _refill(self, now_s: float) -> None:
        if self._last_s is not None:
            gained = self._floor_per_s * max(0.0, now_s - self._last_s)
            # A long quiet time must not save up a storm.
            self._tokens = min(self._tokens + gained, max(self._tokens, 10 * self._floor_per_s))
        self._last_s = now_s
