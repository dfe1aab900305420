"""The fleet as one pool: which device takes a request, and whether weights are brought there for it.

A request goes to the replica that finishes it first. Where none meets the deadline, weights are swapped in from host
memory on the device where that still meets it and costs the others least; a load overlaps the computing of another
model, so a second memory slot hides it. What nobody can finish in time is refused at once, unexecuted (Clockwork's
discipline, OSDI'20). Late binding of weights to devices is Torpor's idea (ATC'25). Pure: time is a parameter, what is
to be done goes to an `Actuator`.
"""

from __future__ import annotations

from collections.abc import Sequence

from router.policy.catalog import ServedModel, Traffic
from router.policy.fair_use import FairUse
from router.policy.pool_limits import Actuator, PoolLimits
from router.policy.promises import PlannedBatch
from router.policy.rebinding import make_room, pull
from router.policy.residency import Residency
from router.policy.ring import Ring
from router.policy.schedule import NEVER, DeviceSchedule, PlannedLoad, first_done

__all__ = ["Actuator", "Pool", "PoolLimits"]


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
        self._service = [m.service_s[0] * limits.upper for m in models]
        self._load_s = [m.weights_gb / load_gb_per_s for m in models]
        self._patience_s = [c * (1 + limits.patience) + w for c, w in zip(self._service, self._load_s, strict=True)]
        self._batches = [limits.batching and m.gains_by_batches for m in models]
        self._limits = limits
        self._actuator = actuator
        self.replicas: list[list[DeviceSchedule]] = [
            [s for s in schedules if index in s.ready_s] for index in range(len(models))
        ]
        self._residency = Residency(models, traffic, self._load_s, self.replicas)
        self._anticipates = limits.swap and limits.anticipate
        self._orphans = {m: None for m, held in enumerate(self.replicas) if not (held or self._residency.reachable(m))}
        self._ring = Ring()
        self._fair = FairUse(traffic, self._service, len(schedules), limits)

    # -- a request ----------------------------------------------------------------------------------------------

    def arrived(self, now: float, request: int, model: int, deadline_s: float) -> None:
        """Promises the request somewhere, or refuses it."""
        service = self._service[model]
        deadline_s = self._fair.deadline_s(now, model, deadline_s)
        best, finish = self._earliest(now, model, deadline_s)
        schedule: DeviceSchedule | None = None
        if best is not None and self._batches[model] and finish > now + service:
            schedule = self._squeeze(now, request, model, deadline_s, batched=True)
        asked = schedule is None and finish - now > self._patience_s[model] and self._limits.swap
        if asked:
            most_cost = self._limits.swap_gain * self._residency.gain(now, model) if finish <= deadline_s else NEVER
            schedule = self._serve_by_swap(now, request, model, min(deadline_s, finish), most_cost)
        if schedule is None and best is not None:
            if finish <= deadline_s:
                best.append(now, model, request, deadline_s, service)
                schedule = best
            else:
                schedule = self._squeeze(now, request, model, deadline_s, batched=False)
        if schedule is None and self._limits.rebind and best is not None:
            schedule = self._make_room(now, request, model, deadline_s)
        if schedule is None and self._limits.swap and not asked:
            schedule = self._serve_by_swap(now, request, model, deadline_s)
        self._residency.seen_s[model] = now
        if schedule is None:
            self._actuator.refuse(request)
            self._fair.refused(now, model)
            if self._anticipates:
                self._bring(now, model)
            return
        self._fair.promised(now, model)
        if schedule.idle:
            self._start(now, schedule)

    def _earliest(self, now: float, model: int, deadline_s: float) -> tuple[DeviceSchedule | None, float]:
        """The replica that would finish the request first, and when; with many replicas, the first good sample."""
        replicas = self.replicas[model]
        if len(replicas) > 2 * self._limits.scan:
            found = first_done(now, model, self._ring.sample(replicas, 2 * self._limits.scan), self._service[model])
            if found[1] <= deadline_s:
                return found
        return first_done(now, model, replicas, self._service[model])

    def _squeeze(
        self, now: float, request: int, model: int, deadline_s: float, *, batched: bool
    ) -> DeviceSchedule | None:
        """A place inside a waiting batch, or ahead of others, that makes nobody late."""
        for schedule in self._ring.sample(self.replicas[model], self._limits.scan):
            if not schedule.queue:
                continue
            if batched:
                if schedule.join(now, model, request, deadline_s):
                    return schedule
            elif schedule.insert(now, model, request, deadline_s, self._service[model]):
                return schedule
        return None

    def _make_room(self, now: float, request: int, model: int, deadline_s: float) -> DeviceSchedule | None:
        hosts = self._ring.sample(self.replicas[model], self._limits.scan)
        asked = PlannedBatch(model, request, deadline_s, self._service[model], 0.0)
        found = make_room(now, asked, hosts, self.replicas)
        if found is None:
            return None
        for changed in found:
            self._resume(now, changed)
        return found[0]

    def _go_on(self, now: float, schedule: DeviceSchedule) -> None:
        """What a device does next; one without work relieves another."""
        self._resume(now, schedule)
        if self._limits.rebind and schedule.idle and not schedule.queue:
            donor = pull(now, schedule, self._candidates())
            if donor is not None:
                self._resume(now, donor)
                self._resume(now, schedule)
        if self._anticipates:
            self._restore(now, schedule)

    def _resume(self, now: float, schedule: DeviceSchedule) -> None:
        """What a device may begin after its promises have changed."""
        if schedule.loads:
            self._begin_loads(schedule)
        if schedule.idle and schedule.queue:
            self._start(now, schedule)

    # -- swaps --------------------------------------------------------------------------------------------------

    def _serve_by_swap(
        self, now: float, request: int, model: int, deadline_s: float, most_cost: float = NEVER
    ) -> DeviceSchedule | None:
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
            if cost > most_cost:
                continue
            start = schedule.earliest_load(now, victims)
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
        return self._ring.sample(self._schedules, self._limits.scan)

    @staticmethod
    def _leaving(schedule: DeviceSchedule, model: int) -> bool:
        return bool(schedule.pins.get(model)) or any(model in load.victims for load in schedule.loads)

    def _plan_load(self, schedule: DeviceSchedule, model: int, victims: Sequence[int], start_s: float) -> None:
        for victim in victims:
            self._withdraw(victim, schedule)
        self.replicas[model].append(schedule)
        self._orphans.pop(model, None)
        schedule.plan_load(model, victims, start_s, self._load_s[model])
        self._begin_loads(schedule)

    def _withdraw(self, model: int, schedule: DeviceSchedule) -> None:
        self.replicas[model].remove(schedule)
        if not self.replicas[model] and not self._residency.reachable(model):
            self._orphans[model] = None

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
        if not self._orphans:
            return
        model = next(iter(self._orphans))
        del self._orphans[model]
        self._orphans[model] = None
        choice = self._residency.worth_loading(now, schedule, model)
        if choice is not None:
            self._plan_load(schedule, model, choice[1], now)

    # -- what the devices report --------------------------------------------------------------------------------

    def finished(self, now: float, device: int, model: int) -> None:
        """A batch is done: the next one starts, a load that waited for its memory begins."""
        schedule = self._schedules[device]
        schedule.finished(now, model)
        self._go_on(now, schedule)

    def loaded(self, now: float, device: int, model: int) -> None:
        """Weights have arrived."""
        schedule = self._schedules[device]
        schedule.loaded(now, model)
        self._go_on(now, schedule)

    def lost(self, device: int) -> list[int]:
        """A device went away: gives the requests that were promised there and not yet begun."""
        schedule = self._schedules[device]
        for model in schedule.ready_s:
            self._withdraw(model, schedule)
        waiting = [request for batch in schedule.queue for request in batch.requests]
        schedule.reset(NEVER)
        return waiting

    def joined(self, now: float, device: int) -> None:
        """A device came (back), empty."""
        self._schedules[device].reset(now)

    def _start(self, now: float, schedule: DeviceSchedule) -> None:
        batch = schedule.next_batch(now)
        if batch is not None:
            self._actuator.start(schedule.device, batch.model, batch.requests)
