"""The fleet as one pool: which device takes a request, and whether weights are brought there for it.

A request goes to the replica that finishes it first. Where none meets the deadline, weights are swapped in from host
memory on the device where that still meets it and costs the others least; a load overlaps the computing of another
model, so a second memory slot hides it. What nobody can finish in time is refused at once, unexecuted (Clockwork's
discipline, OSDI'20). Late binding of weights to devices is Torpor's idea (ATC'25). Pure: time is a parameter, what is
to be done goes to an `Actuator`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from router.policy.catalog import ServedModel, Traffic
from router.policy.residency import Residency
from router.policy.schedule import NEVER, DeviceSchedule, PlannedLoad


class Actuator(Protocol):
    """Who carries decisions out: the agents, or simulated devices."""

    def start(self, device: int, model: int, requests: Sequence[int]) -> None: ...

    def load(self, device: int, model: int, victims: Sequence[int]) -> None: ...

    def refuse(self, request: int) -> None: ...


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """`scan` devices are looked at for a swap, and replicas before the first that is good enough is taken."""

    batching: bool = True
    swap: bool = True
    scan: int = 8
    anticipate: bool = True
    eager_s: float = 0.5


class Pool:
    """Places requests on the devices' schedules and keeps the right weights resident."""

    def __init__(
        self,
        models: Sequence[ServedModel],
        traffic: Sequence[Traffic],
        schedules: Sequence[DeviceSchedule],
        load_gb_per_s: float,
        actuator: Actuator,
        limits: PoolLimits,
    ) -> None:
        self._models = models
        self._schedules = schedules
        self._service = [m.service_s[0] for m in models]
        self._load_s = [m.weights_gb / load_gb_per_s for m in models]
        self._batches = [limits.batching and _gains(m) for m in models]
        self._limits = limits
        self._actuator = actuator
        self.replicas: list[list[DeviceSchedule]] = [
            [s for s in schedules if index in s.ready_s] for index in range(len(models))
        ]
        self._residency = Residency(models, traffic, self._load_s, self.replicas)
        self._anticipates = limits.swap and limits.anticipate
        self._orphans = [m for m in range(len(models)) if not self._residency.reachable(m)]
        self._turn = 0

    # -- a request ----------------------------------------------------------------------------------------------

    def arrived(self, now: float, request: int, model: int, deadline_s: float) -> None:
        """Promises the request somewhere, or refuses it."""
        schedule, eager = None, self._limits.eager_s
        if eager < NEVER and self._limits.swap:
            wait = min((max(s.tail_s, now, s.ready_s[model]) for s in self.replicas[model]), default=now) - now
            if wait > eager * self._service[model] + self._load_s[model]:
                schedule = self._serve_by_swap(now, request, model, min(deadline_s, now + wait + self._service[model]))
        if schedule is None:
            schedule = self._serve_resident(now, request, model, deadline_s)
        if schedule is None and self._limits.swap:
            schedule = self._serve_by_swap(now, request, model, deadline_s)
        self._residency.seen_s[model] = now
        if schedule is None:
            self._actuator.refuse(request)
            if self._anticipates:
                self._bring(now, model)
        elif schedule.idle:
            self._start(now, schedule)

    def _serve_resident(self, now: float, request: int, model: int, deadline_s: float) -> DeviceSchedule | None:
        service = self._service[model]
        best, best_finish = None, NEVER
        replicas = self.replicas[model]
        for schedule in replicas:
            start = schedule.tail_s
            if start <= now:
                start = now
            ready = schedule.ready_s[model]
            if ready > start:
                start = ready
            elif start == now:
                best, best_finish = schedule, now + service
                break
            if start + service < best_finish:
                best, best_finish = schedule, start + service
        if best is None:
            return None
        if self._batches[model] and best_finish > now + service:
            for schedule in replicas:
                if schedule.queue and schedule.join(now, model, request, deadline_s):
                    return schedule
        if best_finish <= deadline_s:
            best.append(now, model, request, deadline_s, service)
            return best
        for schedule in replicas:
            if schedule.queue and schedule.insert(now, model, request, deadline_s, service):
                return schedule
        return None

    # -- swaps --------------------------------------------------------------------------------------------------

    def _serve_by_swap(self, now: float, request: int, model: int, deadline_s: float) -> DeviceSchedule | None:
        service = self._service[model]
        latest = deadline_s - service
        if now + self._load_s[model] > latest:
            return None
        best: tuple[float, float, DeviceSchedule, Sequence[int], float] | None = None
        for schedule in self._candidates():
            if schedule.tail_s > latest or model in schedule.ready_s or self._leaving(schedule, model):
                continue
            choice = self._residency.victims(now, schedule, model)
            if choice is None:
                continue
            victims, cost = choice
            start = schedule.earliest_load(now, self._models[model].weights_gb, victims)
            ready = start + self._load_s[model]
            finish = max(ready, schedule.tail_s, now) + service
            if finish <= deadline_s and (best is None or (cost, finish) < best[:2]):
                best = (cost, finish, schedule, victims, start)
        if best is None:
            return None
        self._plan_load(best[2], model, best[3], best[4])
        best[2].append(now, model, request, deadline_s, service)
        return best[2]

    def _candidates(self) -> Sequence[DeviceSchedule]:
        count, scan = len(self._schedules), self._limits.scan
        if count <= scan:
            return self._schedules
        self._turn = (self._turn + scan) % count
        chosen = self._schedules[self._turn : self._turn + scan]
        return chosen if len(chosen) == scan else [*chosen, *self._schedules[: scan - len(chosen)]]

    @staticmethod
    def _leaving(schedule: DeviceSchedule, model: int) -> bool:
        return bool(schedule.pins.get(model)) or any(model in load.victims for load in schedule.loads)

    def _plan_load(self, schedule: DeviceSchedule, model: int, victims: Sequence[int], start_s: float) -> None:
        for victim in victims:
            self.replicas[victim].remove(schedule)
        self.replicas[model].append(schedule)
        schedule.plan_load(model, victims, start_s, self._load_s[model])
        self._begin_loads(schedule)

    def _begin_loads(self, schedule: DeviceSchedule) -> None:
        load: PlannedLoad | None = schedule.startable_load()
        if load is not None:
            load.started = True
            self._actuator.load(schedule.device, load.model, load.victims)

    def _bring(self, now: float, model: int) -> None:
        """A request was refused: brings its model to one more device for those that follow, if that pays."""
        best: tuple[float, DeviceSchedule, Sequence[int]] | None = None
        for schedule in self._candidates():
            choice = self._residency.worth_loading(now, schedule, model)
            if choice is not None and (best is None or choice[0] > best[0]):
                best = (choice[0], schedule, choice[1])
        if best is not None:
            self._plan_load(best[1], model, best[2], now)

    def _restore(self, now: float, schedule: DeviceSchedule) -> None:
        """An idle device: brings back a model that has no replica and that no swap on demand could serve in time."""
        if schedule.loads or schedule.queue:
            return
        for model in self._orphans:
            if not self.replicas[model]:
                choice = self._residency.worth_loading(now, schedule, model)
                if choice is not None:
                    self._plan_load(schedule, model, choice[1], now)
                    return

    # -- what the devices report --------------------------------------------------------------------------------

    def finished(self, now: float, device: int, model: int) -> None:
        """A batch is done: the next one starts, a load that waited for its memory begins."""
        schedule = self._schedules[device]
        schedule.finished(now, model)
        if schedule.loads:
            self._begin_loads(schedule)
        if schedule.queue:
            self._start(now, schedule)
        if self._anticipates:
            self._restore(now, schedule)

    def loaded(self, now: float, device: int, model: int) -> None:
        """Weights have arrived."""
        schedule = self._schedules[device]
        schedule.loaded(now, model)
        self._begin_loads(schedule)
        if schedule.idle and schedule.queue:
            self._start(now, schedule)
        if self._anticipates:
            self._restore(now, schedule)

    def _start(self, now: float, schedule: DeviceSchedule) -> None:
        batch = schedule.next_batch(now)
        if batch is not None:
            self._actuator.start(schedule.device, batch.model, batch.requests)


def _gains(model: ServedModel) -> bool:
    """Whether a larger batch is cheaper per request."""
    return any(t < (b + 1) * model.service_s[0] * (1 - 1e-9) for b, t in enumerate(model.service_s))
