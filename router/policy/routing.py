"""Which replica takes a request, or why none does. Pure: observations in, a choice with its reason out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from partywall.domain.service_time import STALE_S
from partywall.errors import Overloaded, PartywallError, Reason
from router.policy.worker_load import Standing, Turn, shared_backlog_s


class ReplicaLoad(Standing, Protocol):
    """What the policy sees of one replica; the gateway's own object satisfies it."""

    @property
    def outstanding_requests(self) -> int: ...

    @property
    def slowdown_factor(self) -> float:
        """By how much a batch may take longer than batches lately took, at the bound on what neighbours cost."""
        ...

    @property
    def turn(self) -> Turn:
        """What its worker runs."""
        ...

    @property
    def peers(self) -> Sequence[ReplicaLoad]:
        """The other replicas of its worker."""
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
    running batch has behind it counts no more, unless it is our own replica's and more than a batch waits there.
    """
    seconds = _own_s(replica, rows, now_s)
    peers = replica.peers
    if peers or replica.foreign_rows:
        return seconds + shared_backlog_s(replica, peers, replica.turn, now_s)
    return seconds


def _own_s(replica: ReplicaLoad, rows: int, now_s: float) -> float:
    """Bound on the replica's outstanding work with `rows` more, less what of its running batch is done.

    Nothing joins a running batch. Where more waits than the next batch takes, the running one counts in full: to admit
    until the last moment leaves the head of such a queue no time for its batch to grow, and measured under overload
    they ran half empty.
    """
    turn, batch = replica.turn, replica.max_batch
    done_s = turn.done_s(now_s) if turn.replica is replica else 0.0
    if batch <= 1:
        return _upper_s(replica, rows) * (1 + replica.outstanding_requests) - done_s
    if done_s:
        waiting = max(0, replica.outstanding_rows - turn.rows) + rows
        if waiting <= max(batch, rows):
            return _upper_s(replica, turn.rows) - done_s + _upper_s(replica, waiting)
    return _in_batches_s(replica, replica.outstanding_rows + rows)


def _in_batches_s(replica: ReplicaLoad, rows: int) -> float:
    full, rest = divmod(rows, max(1, replica.max_batch))
    seconds = full * _upper_s(replica, replica.max_batch) if full else 0.0
    return seconds + _upper_s(replica, rest) if rest else seconds


def passing_finish_s(replica: ReplicaLoad, rows: int, due_s: float, now_s: float) -> float:
    """As `predicted_finish_s`, for a request due at `due_s` that passes what its tenant has due later in the worker.

    The agent takes a tenant's earliest deadline first. Infinity where nothing is passed, and where something passed
    might then be late: a replica's whole outstanding work must be done when the first of it is due. The batch that runs
    is not passed; where nobody knows whose that is, the longest is taken (the blocking term of non-preemptive earliest
    deadline first: Jeffay, Stanat and Martel, RTSS'91).
    """
    peers, owner = replica.peers, replica.owner
    # Most refusals end here: one model, or one model a tenant, has nobody to pass.
    if not any(peer.outstanding_rows and peer.owner == owner for peer in peers):
        return math.inf
    own_s, turn = _own_s(replica, rows, now_s), replica.turn
    if now_s + own_s > due_s or replica.foreign_rows or any(peer.foreign_rows for peer in peers):
        return math.inf
    passed, kept = list[ReplicaLoad](), list[ReplicaLoad]()
    for peer in peers:
        later = peer.outstanding_rows and peer.owner == owner and peer.earliest_due_s > due_s
        (passed if later else kept).append(peer)
    if not passed:
        return math.inf
    done_s = turn.done_s(now_s)
    started = {id(turn.replica): turn.rows} if done_s else {}
    if done_s:
        before_s = sum(_upper_s(peer, turn.rows) - done_s for peer in passed if peer is turn.replica)
    else:
        before_s = max(_upper_s(peer, min(max(1, peer.max_batch), peer.outstanding_rows)) for peer in passed)
    finish_s = own_s + before_s + shared_backlog_s(replica, kept, turn, now_s, before_s)
    served_s = before_s
    for peer in sorted(passed, key=lambda peer: peer.earliest_due_s):
        served_s += _in_batches_s(peer, max(0, peer.outstanding_rows - started.get(id(peer), 0)))
        if now_s + own_s + served_s + shared_backlog_s(replica, kept, turn, now_s, served_s) > peer.earliest_due_s:
            return math.inf
    return finish_s


def _upper_s(replica: ReplicaLoad, rows: int) -> float:
    """The greater of two bounds: what batches lately scattered, and what neighbours may still add to their mean."""
    upper_s, factor = replica.service.upper_s(rows), replica.slowdown_factor
    return upper_s if factor <= 1.0 else max(upper_s, factor * replica.service.mean_s(rows))


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
        finish_s, passing = _passing(replicas, rows, budget_s, now_s, limits)
        if passing is None:
            raise _too_late(best_finish_s, budget_s)
        return passing, finish_s
    return best, best_finish_s


def _passing(
    replicas: Sequence[R], rows: int, budget_s: float, now_s: float, limits: RoutingLimits
) -> tuple[float, R | None]:
    """The replica where a request that would else be refused is done soonest by passing its tenant's later ones."""
    best_s, best = budget_s, None
    for replica in replicas:
        if replica.outstanding_requests < limits.max_outstanding:
            finish_s = passing_finish_s(replica, rows, now_s + budget_s, now_s)
            if finish_s <= best_s:
                best_s, best = finish_s, replica
    return best_s, best


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
