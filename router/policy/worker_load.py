"""What stands before a request in a worker that it shares: waiting work, less what of the running batch is done.

The router and the simulator ask the same functions, each with its own replicas.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from partywall.domain.service_time import ServiceTime


class Standing(Protocol):
    """A replica in a worker, and what its router has there."""

    @property
    def owner(self) -> str:
        """The tenant; who the agent's fair queue serves."""
        ...

    @property
    def weight(self) -> float:
        """Of the owner in the fair queue."""
        ...

    @property
    def outstanding_rows(self) -> int: ...

    @property
    def foreign_rows(self) -> int:
        """Rows that others than this router have there, as of the agent's last report."""
        ...

    @property
    def earliest_due_s(self) -> float:
        """When the first of what is outstanding is due, on the router's clock; infinity where nothing is."""
        ...

    @property
    def max_batch(self) -> int: ...

    @property
    def service(self) -> ServiceTime: ...


@dataclass(slots=True)
class Turn:
    """What runs in a worker and since when, as far as its router can know; shared by the worker's replicas.

    A worker runs one batch after the other. So one begins where an idle worker is sent something, and where another's
    replies come; whose it then is, is known only while one replica alone has work there.
    """

    since_s: float = 0.0
    """On the router's clock."""
    replica: Standing | None = None
    """None: nobody knows."""
    rows: int = 0
    expected_s: float = 0.0
    """What such a batch takes."""

    def sent(self, replica: Standing, replicas: Iterable[Standing], rows: int, now_s: float) -> None:
        """`rows` rows go to a replica; to be called before they are outstanding."""
        if not any(other.outstanding_rows or other.foreign_rows for other in replicas):
            self._begin(replica, rows, now_s)

    def answered(self, replicas: Iterable[Standing], now_s: float) -> None:
        """Replies came and are no more outstanding: the next batch begins."""
        self.replica = None
        busy = [other for other in replicas if other.outstanding_rows or other.foreign_rows]
        if len(busy) == 1 and not busy[0].foreign_rows:
            self._begin(busy[0], min(max(1, busy[0].max_batch), busy[0].outstanding_rows), now_s)

    def _begin(self, replica: Standing, rows: int, now_s: float) -> None:
        self.replica, self.rows, self.since_s = replica, rows, now_s
        self.expected_s = replica.service.mean_s(rows)

    def done_s(self, now_s: float) -> float:
        """Seconds that the batch has behind it, no more than such a batch takes; 0.0 where nothing is known to run."""
        running = self.replica
        if running is None or not running.outstanding_rows:
            return 0.0
        # Asked for every request: builtins would cost as much as the rest of the prediction.
        done_s = now_s - self.since_s
        if done_s <= 0.0:
            return 0.0
        return done_s if done_s < self.expected_s else self.expected_s


@dataclass(frozen=True, slots=True)
class TenantBacklog:
    """What one tenant's replicas hold of a worker: seconds of work, and of its longest batch."""

    backlog_s: float
    batch_s: float
    weight: float = 1.0


_NOTHING = TenantBacklog(0.0, 0.0)


def fair_backlog_s(own_s: float, others: Iterable[TenantBacklog], weight: float = 1.0) -> float:
    """Most seconds that other tenants' work delays ours in a fair queue.

    Start-time fair queueing lets another tenant have its weight's worth of what we are served (`own_s`, the request
    included) and one batch, whatever it has queued (Goyal, Vin and Cheng, SIGCOMM'96, theorem 4).
    """
    return sum(min(other.backlog_s, own_s * other.weight / weight + other.batch_s) for other in others)


def shared_backlog_s(
    own: Standing, peers: Iterable[Standing], turn: Turn | None = None, now_s: float = 0.0, also_s: float = 0.0
) -> float:
    """Seconds of work, running and waiting, of a worker's other replicas and other routers that come before ours.

    All of it for replicas of the same tenant; of other tenants' no more than the fair queue lets pass, which grows with
    what the tenant is served: `also_s` is more of that. With `turn`, what the running batch has behind it at `now_s`
    counts no more.
    """
    same_s = _seconds(own, own.foreign_rows) if own.foreign_rows else 0.0
    others: dict[str, TenantBacklog] = {}
    done_s = 0.0
    for peer in peers:
        rows = peer.outstanding_rows + peer.foreign_rows
        if not rows:
            continue
        seconds, owner = _seconds(peer, rows), peer.owner
        if turn is not None and turn.replica is peer:
            done_s = turn.done_s(now_s)
        if owner == own.owner:
            same_s += seconds
        else:
            known = others.get(owner, _NOTHING)
            longest_s = max(known.batch_s, _batch_s(peer, rows))
            others[owner] = TenantBacklog(known.backlog_s + seconds, longest_s, peer.weight)
    if not others:
        return same_s - done_s
    own_s = same_s + also_s + _seconds(own, own.outstanding_rows + 1)
    # Not from the others' backlog before the fair queue's limit: what runs is the one batch that the limit allows them.
    return same_s + fair_backlog_s(own_s, others.values(), own.weight) - done_s


def _seconds(replica: Standing, rows: int) -> float:
    batch = max(1, replica.max_batch)
    return -(-rows // batch) * replica.service.mean_s(min(batch, rows))


def _batch_s(replica: Standing, rows: int) -> float:
    return replica.service.mean_s(min(max(1, replica.max_batch), rows))
