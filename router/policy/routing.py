"""Which replica takes a request, or why none does. Pure: observations in, a choice with its reason out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from partywall.domain.service_time import ServiceTime
from partywall.errors import Overloaded, PartywallError, Reason
from router.policy.worker_load import Standing, Turn

STALE_S = 1.0
"""An idle replica whose last sample is older is tried whatever the prediction says, so that it can improve."""


class ReplicaLoad(Standing, Protocol):
    """What the policy sees of one replica; the gateway's own object satisfies it."""

    @property
    def outstanding_requests(self) -> int: ...

    @property
    def shared_backlog_s(self) -> float:
        """Seconds of work of the same worker's other replicas before ours (`worker_load.shared_backlog_s`)."""
        ...

    @property
    def slowdown_factor(self) -> float:
        """By how much a batch may take longer than batches lately took, at the bound on what neighbours cost."""
        ...

    @property
    def turn(self) -> Turn:
        """What its worker runs."""
        ...


R = TypeVar("R", bound=ReplicaLoad)


@dataclass(frozen=True, slots=True)
class RoutingLimits:
    """Limits of the choice. `admission` False: deadlines refuse nobody, only a full queue does."""

    max_outstanding: int = 2000
    admission: bool = True


def predicted_finish_s(replica: ReplicaLoad, rows: int, now_s: float) -> float:
    """Upper bound, in seconds from `now_s`, of when a request of `rows` rows would be done.

    Outstanding rows run in full batches before it; other replicas of the same worker add their backlog. What the
    running batch has behind it counts no more, and nothing joins it.
    """
    batch, service, turn = replica.max_batch, replica.service, replica.turn
    done_s = turn.done_s(now_s)
    ours = turn.rows if done_s and turn.replica is replica else 0
    if batch > 1:
        full, rest = divmod(max(0, replica.outstanding_rows - ours) + rows, batch)
    else:
        full, rest, batch = replica.outstanding_requests - (1 if ours else 0), rows, rows
    factor = replica.slowdown_factor
    seconds = _upper_s(service, ours, factor) if ours else 0.0
    if full:
        seconds += full * _upper_s(service, batch, factor)
    if rest:
        seconds += _upper_s(service, rest, factor)
    return seconds + replica.shared_backlog_s - done_s


def _upper_s(service: ServiceTime, rows: int, factor: float) -> float:
    """The greater of two bounds: what batches lately scattered, and what neighbours may still add to their mean."""
    upper_s = service.upper_s(rows)
    return upper_s if factor <= 1.0 else max(upper_s, factor * service.mean_s(rows))


def choose(replicas: Sequence[R], rows: int, budget_s: float, now_s: float, limits: RoutingLimits) -> R:
    """The replica that `decide` answers, alone."""
    return decide(replicas, rows, budget_s, now_s, limits)[0]


def decide(replicas: Sequence[R], rows: int, budget_s: float, now_s: float, limits: RoutingLimits) -> tuple[R, float]:
    """The replica with the least predicted finish, and that prediction in seconds from now (an upper bound).

    Clockwork's discipline (OSDI'20): a request that cannot be done within `budget_s` anywhere is refused at once.

    Raises:
        Overloaded: QUEUE_FULL or DEADLINE_UNREACHABLE, with a retry hint.
    """
    best, best_finish_s = None, float("inf")
    for replica in replicas:
        if replica.outstanding_requests >= limits.max_outstanding:
            continue
        finish_s = predicted_finish_s(replica, rows, now_s)
        if finish_s < best_finish_s:
            best, best_finish_s = replica, finish_s
    if best is None:
        raise _full(replicas, now_s)
    if limits.admission and best_finish_s > budget_s and not _worth_a_try(best, now_s):
        raise _too_late(best_finish_s, budget_s)
    return best, best_finish_s


def _worth_a_try(replica: ReplicaLoad, now_s: float) -> bool:
    return replica.outstanding_requests == 0 and now_s - replica.service.last_sample_s > STALE_S


def _full(replicas: Sequence[ReplicaLoad], now_s: float) -> PartywallError:
    least_s = min((predicted_finish_s(r, 1, now_s) for r in replicas), default=0.0)
    return Overloaded(
        "every replica's queue is full; send again after the hint, or raise the replica count",
        reason=Reason.QUEUE_FULL,
        retry_after_s=_rounded_hint(least_s / 2),
    )


def _too_late(finish_s: float, budget_s: float) -> PartywallError:
    return Overloaded(
        f"the deadline leaves {budget_s * 1e3:.0f} ms and the earliest finish is {finish_s * 1e3:.0f} ms away; "
        "send again after the hint, or with a later deadline",
        reason=Reason.DEADLINE_UNREACHABLE,
        fields={"budget_ms": f"{budget_s * 1e3:.0f}", "predicted_ms": f"{finish_s * 1e3:.0f}"},
        retry_after_s=_rounded_hint(finish_s - budget_s),
    )


def _rounded_hint(seconds: float) -> float:
    """Coarse on purpose (tens of milliseconds): a hint must not be a gauge of a neighbour's queue."""
    return max(0.01, round(seconds + 0.005, 2))
