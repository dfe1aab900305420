"""The account of one device: what runs, what is promised, what is resident, and when a new request would be done.

Admission is Clockwork's discipline (OSDI'20): a request is taken only when its predicted finish, behind everything
already promised, meets its deadline, and nothing promised is made late by it. Order is by deadline where that helps;
a batch grows while every deadline in it, and behind it, still holds. Pure: time is a parameter. Seconds throughout.
"""

from __future__ import annotations

from collections.abc import Sequence

from router.policy.catalog import ServedModel
from router.policy.promises import NEVER, PlannedBatch, PlannedLoad

__all__ = ["NEVER", "DeviceSchedule", "PlannedBatch", "PlannedLoad", "first_done"]


class DeviceSchedule:
    """One device's promises.

    `ready_s` maps each resident or coming model to the time it can run; a leaving victim is no longer in it.
    `tail_s` is when everything promised so far is done. Loads are at most two: one in progress, one waiting.
    """

    __slots__ = (
        "busy_until_s",
        "device",
        "free_gb",
        "idle",
        "loads",
        "memory_gb",
        "models",
        "pins",
        "queue",
        "ready_s",
        "tail_s",
    )

    def __init__(self, device: int, models: Sequence[ServedModel], memory_gb: float) -> None:
        self.device = device
        self.models = models
        self.memory_gb = memory_gb
        self.reset(0.0)

    def reset(self, free_from_s: float) -> None:
        """An empty device that can begin at this time; `NEVER`: it is gone."""
        self.free_gb = self.memory_gb if free_from_s < NEVER else 0.0
        self.idle = True
        self.busy_until_s = free_from_s
        self.tail_s = free_from_s
        self.queue: list[PlannedBatch] = []
        self.ready_s: dict[int, float] = {}
        self.pins: dict[int, int] = {}
        self.loads: list[PlannedLoad] = []

    # -- promises -----------------------------------------------------------------------------------------------

    def append(self, now: float, model: int, request: int, deadline_s: float, service_s: float) -> None:
        """Promises a batch of one behind everything else; the caller has checked the deadline."""
        batch = PlannedBatch(model, request, deadline_s, service_s, self.ready_s[model])
        start = self.tail_s if self.tail_s > now else now
        if batch.ready_s > start:
            start = batch.ready_s
        batch.end_s = self.tail_s = start + service_s
        self.queue.append(batch)
        self.pins[model] = self.pins.get(model, 0) + 1

    def join(self, now: float, model: int, request: int, deadline_s: float) -> bool:
        """Adds a request to a waiting batch of its model when that is cheaper than its own and harms nobody."""
        service = self.models[model].service_s
        if self._waiting_load():
            return False
        for batch in reversed(self.queue):
            if batch.model != model:
                continue
            size = len(batch.requests)
            if size >= len(service) or service[size] - service[size - 1] >= service[0]:
                return False
            held, batch.service_s = (batch.service_s, batch.deadline_s), service[size]
            batch.deadline_s = min(deadline_s, batch.deadline_s)
            if self._holds(now):
                batch.requests.append(request)
                self._retime(now)
                return True
            batch.service_s, batch.deadline_s = held
            return False
        return False

    def insert(self, now: float, model: int, request: int, deadline_s: float, service_s: float) -> bool:
        """Promises a batch of one ahead of later deadlines (or of weights still coming) if nobody suffers."""
        if self._waiting_load() or not self.queue:
            return False
        if self._place(now, PlannedBatch(model, request, deadline_s, service_s, self.ready_s[model])):
            self.pins[model] = self.pins.get(model, 0) + 1
            return True
        return False

    def _place(self, now: float, batch: PlannedBatch) -> bool:
        by_deadline = len(self.queue)
        while by_deadline and self.queue[by_deadline - 1].deadline_s > batch.deadline_s:
            by_deadline -= 1
        for position in (by_deadline, 0) if by_deadline else (0,):
            self.queue.insert(position, batch)
            if self._holds(now):
                self._retime(now)
                return True
            del self.queue[position]
        return False

    def give(self, now: float, batch: PlannedBatch) -> None:
        """A promise that has not begun leaves for another device; what stands behind it moves up."""
        self.queue.remove(batch)
        self._retime(now)
        self.pins[batch.model] -= 1

    def restore(self, now: float, position: int, batch: PlannedBatch) -> None:
        """Undoes `give`: the promise stands where it stood."""
        self.queue.insert(position, batch)
        self._retime(now)
        self.pins[batch.model] += 1

    def adopt(self, now: float, batch: PlannedBatch) -> bool:
        """Takes over another device's promise if it keeps its deadline here and nobody suffers."""
        came_ready_s, batch.ready_s = batch.ready_s, self.ready_s[batch.model]
        start = max(now, self.tail_s, batch.ready_s)
        if start + batch.service_s <= batch.deadline_s:
            self.queue.append(batch)
            batch.end_s = self.tail_s = start + batch.service_s
        elif self._waiting_load() or not self._place(now, batch):
            batch.ready_s = came_ready_s
            return False
        self.pins[batch.model] = self.pins.get(batch.model, 0) + 1
        return True

    def _holds(self, now: float) -> bool:
        at = self.busy_until_s if self.busy_until_s > now else now
        for batch in self.queue:
            if batch.ready_s > at:
                at = batch.ready_s
            at += batch.service_s
            if at > batch.deadline_s:
                return False
        return True

    def _retime(self, now: float) -> None:
        at = self.busy_until_s if self.busy_until_s > now else now
        for batch in self.queue:
            if batch.ready_s > at:
                at = batch.ready_s
            at += batch.service_s
            batch.end_s = at
        self.tail_s = at

    # -- running ------------------------------------------------------------------------------------------------

    def next_batch(self, now: float) -> PlannedBatch | None:
        """The batch to start now, or None: nothing waits, or its weights still come."""
        if not self.queue or (self.loads and self._coming(self.queue[0].model)):
            return None
        batch = self.queue.pop(0)
        self.idle = False
        end = now + batch.service_s
        late = end != batch.end_s
        self.busy_until_s = end
        if late:
            self._retime(now)
        return batch

    def finished(self, now: float, model: int) -> None:
        """The running batch is done."""
        self.idle = True
        self.busy_until_s = now
        if not self.queue:
            self.tail_s = now
        self.pins[model] -= 1

    # -- residency ----------------------------------------------------------------------------------------------

    def earliest_load(self, now: float, victims: Sequence[int]) -> float:
        """When a load that needs these victims gone may begin; `NEVER` when the copy engine already has two."""
        if len(self.loads) > 1:
            return NEVER
        start = self.loads[-1].ready_s if self.loads else now
        for victim in victims:
            if self.pins.get(victim):
                start = max(start, self._last_end(victim))
        return start

    def _last_end(self, model: int) -> float:
        for batch in reversed(self.queue):
            if batch.model == model:
                return batch.end_s
        return self.busy_until_s

    def plan_load(self, model: int, victims: Sequence[int], start_s: float, load_s: float) -> PlannedLoad:
        """Promises a load; the victims take no more requests from now on."""
        load = PlannedLoad(model, victims, start_s, start_s + load_s)
        for victim in victims:
            del self.ready_s[victim]
            self.free_gb += self.models[victim].weights_gb
        self.free_gb -= self.models[model].weights_gb
        self.ready_s[model] = load.ready_s
        self.loads.append(load)
        return load

    def startable_load(self) -> PlannedLoad | None:
        """The load to begin now: first in line, not begun, and no victim is still needed."""
        if not self.loads or self.loads[0].started:
            return None
        load = self.loads[0]
        return None if any(self.pins.get(victim) for victim in load.victims) else load

    def loaded(self, now: float, model: int) -> None:
        """The load in progress is done."""
        self.loads.pop(0)
        if model in self.ready_s:
            self.ready_s[model] = now

    def _coming(self, model: int) -> bool:
        return any(load.model == model for load in self.loads)

    def _waiting_load(self) -> bool:
        return bool(self.loads) and not self.loads[-1].started


def first_done(
    now: float, model: int, replicas: Sequence[DeviceSchedule], service_s: float
) -> tuple[DeviceSchedule | None, float]:
    """The replica that would finish one more request of a model first, and when; None and never without one."""
    best, best_start = None, NEVER
    for schedule in replicas:
        start = schedule.tail_s
        if start <= now:
            start = now
        ready = schedule.ready_s[model]
        if ready > start:
            start = ready
        elif start == now:
            return schedule, now + service_s
        if start < best_start:
            best, best_start = schedule, start
    return best, best_start + service_s
