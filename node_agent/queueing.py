"""The agent's queue in front of one worker: pure, driven by a time that is passed in.

Start-time fair queueing on device seconds between tenants (`fairness`), earliest deadline first over the replicas of
one tenant, dynamic batching inside a replica. The router decides where a request runs, this decides when, because only
the agent knows what is running.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass, replace

from node_agent.fairness import FairClock, ShareAccount
from node_agent.queue_lane import MOST_CANCELLED, BatchLimits, Lane, Queued
from node_agent.settings import QueueDiscipline
from partywall.domain.service_time import STALE_S

__all__ = ["MOST_CANCELLED", "Batch", "BatchLimits", "Queued", "WorkQueue"]


@dataclass(frozen=True, slots=True)
class Batch:
    """Requests of one replica to run together; never empty."""

    handle: int
    items: tuple[Queued, ...]
    rows: int


class WorkQueue:
    """Requests waiting for one worker.

    `take` answers the next batch and, apart from it, the requests that can no longer be served in time: those are
    dropped unexecuted (Clockwork, OSDI'20: work that will miss its deadline is not started).
    """

    def __init__(self, discipline: QueueDiscipline = QueueDiscipline.EDF) -> None:
        self._discipline = discipline
        self._fair = FairClock()
        self._account = ShareAccount()
        self._lanes: dict[int, Lane] = {}
        self._live: dict[int, Queued] = {}
        self._sequence = 0

    def __len__(self) -> int:
        return len(self._live)

    def add_replica(self, handle: int, limits: BatchLimits, tenant: str = "", weight: float = 1.0) -> None:
        """Opens a lane of a tenant; an existing one only gets the new limits and weight."""
        if self._discipline is QueueDiscipline.FIFO:
            # First come, first served knows no tenants.
            tenant = ""
        self._fair.set_weight(tenant, weight)
        self._account.set_weight(tenant, weight)
        lane = self._lanes.get(handle)
        if lane is None:
            self._lanes[handle] = Lane(limits, tenant)
        else:
            lane.limits = limits

    def limit_rows(self, handle: int, max_rows: int) -> None:
        """Another bound on the rows of a replica's batches; a request of more rows that waits already runs alone."""
        lane = self._lanes.get(handle)
        if lane is not None:
            lane.limits = replace(lane.limits, max_rows=max_rows)

    def remove_replica(self, handle: int) -> list[Queued]:
        """Closes a lane and answers what still waited in it."""
        lane = self._lanes.pop(handle, None)
        if lane is None:
            return []
        if not any(other.tenant == lane.tenant for other in self._lanes.values()):
            self._fair.forget(lane.tenant)
            self._account.forget(lane.tenant)
        waiting = lane.waiting()
        for item in waiting:
            self._live.pop(item.id, None)
        return waiting

    def has_replica(self, handle: int) -> bool:
        return handle in self._lanes

    def queued(self, handle: int) -> int:
        """Rows waiting for a replica."""
        lane = self._lanes.get(handle)
        return lane.rows if lane else 0

    def put(self, item: Queued) -> None:
        """Adds a request; its lane must be open (KeyError)."""
        lane = self._lanes[item.handle]
        self._sequence += 1
        key = item.due_s if self._discipline is QueueDiscipline.EDF else item.arrived_s
        heapq.heappush(lane.heap, (key, self._sequence, item))
        lane.rows += item.rows
        self._live[item.id] = item

    def cancel(self, request_id: int) -> bool:
        """Forgets a request that still waits; False when it is unknown or already taken."""
        item = self._live.pop(request_id, None)
        if item is None:
            return False
        self._lanes[item.handle].cancel(item)
        return True

    def observe(self, handle: int, rows: int, service_s: float, now_s: float) -> None:
        """Feeds an executed batch back, for the predictions."""
        lane = self._lanes.get(handle)
        if lane is not None:
            lane.service.observe(rows, service_s, now_s)
            if lane.charged_s:
                difference_s = service_s - lane.charged_s.popleft()
                self._fair.correct(lane.tenant, difference_s)
                self._account.spend(lane.tenant, difference_s)

    def service_s(self, handle: int, rows: int) -> float:
        """Expected seconds of a batch; 0.0 while unknown."""
        lane = self._lanes.get(handle)
        return lane.service.mean_s(rows) if lane else 0.0

    def backlog_s(self, handle: int) -> float:
        """Expected seconds of work that waits for a replica, batched as it would run."""
        lane = self._lanes.get(handle)
        return lane.backlog_s() if lane else 0.0

    def take(self, now_s: float) -> tuple[Batch | None, list[Queued]]:
        """The next batch (None: nothing can run) and the requests given up."""
        doomed: list[Queued] = []
        soonest: dict[str, Lane] = {}
        for lane in self._lanes.values():
            self._prune(lane, now_s, doomed)
            if lane.heap:
                best = soonest.get(lane.tenant)
                if best is None or lane.heap[0][:2] < best.heap[0][:2]:
                    soonest[lane.tenant] = lane
        self._account.advance(now_s, soonest)
        tenant = self._fair.first(self._account.first_in_line(soonest))
        if tenant is None:
            return None, doomed
        lane = soonest[tenant]
        batch = self._fill(lane, now_s, doomed, self._longest_s(tenant, lane))
        cost_s = lane.service.mean_s(batch.rows)
        lane.charged_s.append(cost_s)
        self._fair.charge(tenant, cost_s)
        self._account.spend(tenant, cost_s)
        return batch, doomed

    def _longest_s(self, tenant: str, lane: Lane) -> float:
        if lane.limits.max_rows == 1 or len(lane.heap) == 1:
            return math.inf
        single_s: dict[str, float] = {}
        for each in self._lanes.values():
            single_s[each.tenant] = max(single_s.get(each.tenant, 0.0), each.service.mean_s(1))
        return self._account.longest_batch_s(tenant, single_s)

    def _prune(self, lane: Lane, now_s: float, doomed: list[Queued]) -> None:
        """Drops cancelled heads and heads that cannot be served in time."""
        heap = lane.heap
        while heap:
            item = heap[0][2]
            if item.cancelled:
                heapq.heappop(heap)
                lane.cancelled -= 1
            elif self._too_late(lane, item, now_s):
                heapq.heappop(heap)
                self._forget(lane, item)
                doomed.append(item)
            else:
                return

    def _too_late(self, lane: Lane, item: Queued, now_s: float) -> bool:
        if self._discipline is QueueDiscipline.FIFO:
            return now_s >= item.deadline_s
        # By the upper bound: what would as likely be late takes the time of those behind it.
        needs_s = lane.service.upper_s(item.rows)
        if needs_s > item.deadline_s - item.arrived_s and now_s - lane.service.last_sample_s > STALE_S:
            # Nothing with this budget would ever run, and the estimate cannot improve unless something does.
            return now_s >= item.deadline_s
        return now_s + needs_s > item.deadline_s

    def _fill(self, lane: Lane, now_s: float, doomed: list[Queued], longest_s: float) -> Batch:
        """The largest batch from the head of the lane, at most so long, in which every request meets its deadline."""
        items: list[Queued] = []
        rows, size, tightest_s = 0, 0, float("inf")
        limits = lane.limits
        while lane.heap:
            item = lane.heap[0][2]
            if items:
                grown = rows + item.rows
                if grown > limits.max_rows or size + len(item.request) > limits.max_bytes:
                    break
                # By the upper bound: a batch may stay small, but whoever joined it may not be made late.
                took_s = lane.service.upper_s(grown)
                if took_s > longest_s or now_s + took_s > min(tightest_s, item.deadline_s):
                    break
            heapq.heappop(lane.heap)
            self._forget(lane, item)
            items.append(item)
            rows += item.rows
            size += len(item.request)
            tightest_s = min(tightest_s, item.deadline_s)
            self._prune(lane, now_s, doomed)
        return Batch(items[0].handle, tuple(items), rows)

    def _forget(self, lane: Lane, item: Queued) -> None:
        self._live.pop(item.id, None)
        lane.rows -= item.rows
