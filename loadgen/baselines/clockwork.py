"""Clockwork (OSDI'20) as its `infer5` controller does it, on one controller for all devices.

INFER: every model has a queue by deadline; a strategy is (model, batch of 1, 2, 4, 8 or 16) with priority
head deadline - estimate(batch); never a batch above 1 that runs longer than 25 ms; the largest batch with enough
demand. The controller aims 5 ms before the objective. A request that can no longer make it is dropped unexecuted.
LOAD: demand = size x capacity / time to deadline, spread over the devices that hold the model; the model with the
most unmet demand is loaded where a copy engine is free, evicting the least recently used. Clockwork schedules 10 ms
ahead because its network takes time; actions here begin at once, so a device is given work when it is free.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict

from loadgen.baselines.fifo import spread
from loadgen.world import Batch, World

BATCHES = (16, 8, 4, 2, 1)
MAX_BATCH_S = 0.025
SLACK_S = 0.005
CANDIDATES = 64
"""Models looked at per load decision, soonest deadline first."""


class Clockwork:
    """One controller; the devices do one thing at a time."""

    def begin(self, world: World) -> None:
        self._world = world
        models, hardware = world.models, world.hardware
        self._queues: list[list[tuple[float, int]]] = [[] for _ in models]
        self._waiting: set[int] = set()
        self._idle = set(range(hardware.devices))
        self._resident: list[OrderedDict[int, None]] = [OrderedDict() for _ in range(hardware.devices)]
        self._free_gb = [hardware.memory_gb] * hardware.devices
        self._copying = [-1] * hardware.devices
        self._running = [-1] * hardware.devices
        self._holders: list[set[int]] = [set() for _ in models]
        self._slack = [min(SLACK_S, max(0.0, (m.objective_s - m.service_s[0]) / 2)) for m in models]
        for device, residents in enumerate(spread(models, hardware.devices, hardware.memory_gb)):
            for model in residents:
                world.place(device, model)
                self._hold(device, model)

    def _hold(self, device: int, model: int) -> None:
        self._resident[device][model] = None
        self._holders[model].add(device)
        self._free_gb[device] -= self._world.models[model].weights_gb

    # -- events -------------------------------------------------------------------------------------------------

    def arrived(self, now: float, request: int, model: int, deadline: float) -> None:
        heapq.heappush(self._queues[model], (deadline, request))
        self._waiting.add(model)
        for device in sorted(self._holders[model] & self._idle):
            self._infer(now, device)
        self._load(now)

    def finished(self, now: float, lane: int, model: int, batch: Batch) -> None:
        self._idle.add(lane)
        self._running[lane] = -1
        self._infer(now, lane)
        self._load(now)

    def loaded(self, now: float, device: int, model: int) -> None:
        self._copying[device] = -1
        if device in self._idle:
            self._infer(now, device)
        self._load(now)

    def woken(self, now: float) -> None:
        """Nothing is asked for: late requests are dropped when their queue is looked at."""

    def changed(self, now: float, device: int, up: bool, lost: Batch) -> None:
        for request in lost:
            self._world.refuse(request)
        for model in self._resident[device]:
            self._holders[model].discard(device)
        self._resident[device].clear()
        self._copying[device] = -1
        self._free_gb[device] = self._world.hardware.memory_gb if up else 0.0
        self._running[device] = -1
        if up:
            self._idle.add(device)
        else:
            self._idle.discard(device)

    # -- INFER --------------------------------------------------------------------------------------------------

    def _drop_late(self, now: float, model: int) -> None:
        """Refuses what no device could still finish in time."""
        queue, service = self._queues[model], self._world.models[model].service_s[0]
        while queue and queue[0][0] < now + service:
            self._world.refuse(heapq.heappop(queue)[1])
        if not queue:
            self._waiting.discard(model)

    def _batch(self, now: float, model: int) -> int:
        service, queue = self._world.models[model].service_s, self._queues[model]
        for size in BATCHES:
            if size == 1 or (
                self._world.batching
                and size <= min(len(service), len(queue))
                and service[size - 1] <= MAX_BATCH_S
                and queue[0][0] >= now + service[size - 1]
            ):
                return size
        return 1

    def _infer(self, now: float, device: int) -> None:
        best: tuple[float, int, int] | None = None
        coming = self._copying[device]
        for model in self._resident[device].keys() & self._waiting:
            if model == coming:
                continue
            self._drop_late(now, model)
            queue = self._queues[model]
            if queue:
                size = self._batch(now, model)
                due = queue[0][0] - self._slack[model] - self._world.models[model].service_s[size - 1]
                best = min(best, (due, model, size)) if best else (due, model, size)
        if best is None:
            return
        _, model, size = best
        batch = [heapq.heappop(self._queues[model])[1] for _ in range(size)]
        if not self._queues[model]:
            self._waiting.discard(model)
        self._resident[device].move_to_end(model)
        self._idle.discard(device)
        self._running[device] = model
        self._world.start(device, model, batch)

    # -- LOAD ---------------------------------------------------------------------------------------------------

    def _unmet(self, now: float, model: int) -> float:
        """Seconds of work per second until the head's deadline that the holders cannot take."""
        queue = self._queues[model]
        work = len(queue) * self._world.models[model].service_s[0]
        return work / max(queue[0][0] - now, 1e-3) - len(self._holders[model])

    def _load(self, now: float) -> None:
        if not self._world.swap:
            return
        while True:
            for model in list(self._waiting):
                self._drop_late(now, model)
            soonest = heapq.nsmallest(CANDIDATES, self._waiting, key=lambda m: self._queues[m][0][0])
            wanted = sorted((-self._unmet(now, m), m) for m in soonest)
            if not any(need < 0 and self._load_one(now, model) for need, model in wanted):
                return

    def _load_one(self, now: float, model: int) -> bool:
        held = self._world.models[model]
        took = held.weights_gb / self._world.hardware.load_gb_per_s
        if not any(deadline >= now + took + held.service_s[0] for deadline, _ in self._queues[model]):
            return False
        for device in sorted(range(len(self._copying)), key=lambda d: (d not in self._idle, d)):
            if self._copying[device] < 0 and model not in self._resident[device] and self._make_room(device, model):
                self._world.load(device, model)
                self._hold(device, model)
                self._copying[device] = model
                return True
        return False

    def _make_room(self, device: int, model: int) -> bool:
        need = self._world.models[model].weights_gb - self._free_gb[device] - 1e-9
        leaving: list[int] = []
        for victim in self._resident[device]:
            if need <= 0:
                break
            if victim != self._running[device]:
                leaving.append(victim)
                need -= self._world.models[victim].weights_gb
        if need > 0:
            return False
        for victim in leaving:
            self._world.evict(device, victim)
            del self._resident[device][victim]
            self._holders[victim].discard(device)
            self._free_gb[device] += self._world.models[victim].weights_gb
        return True
