"""SHEPHERD (NSDI'23): HERD groups, FLEX inside each group.

FLEX: one queue per model by deadline; on each arrival or completion the largest batch of any model that meets its
deadlines is the candidate; it goes to an idle device, or preempts the device with the smallest running batch when it
is at least lambda = 3.03 times as large; what cannot be done even alone is dropped. HERD's integer programme is
replaced by its greedy form: as few groups as memory allows, filled in falling order of load, and devices dealt to the
group with the least burst tolerance (capacity over mean load). A preempted batch is lost whole: these devices have no
layers to stop between.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from loadgen.world import Batch, World
from router.policy.catalog import ServedModel, Traffic

LAMBDA = 3.03


def herd(
    models: Sequence[ServedModel], traffic: Sequence[Traffic], devices: int, memory_gb: float
) -> list[tuple[list[int], list[int]]]:
    """Groups as (models, devices); models that fit in no group get none."""
    load = [t.rate_per_s * m.service_s[0] for m, t in zip(models, traffic, strict=True)]
    groups: list[list[int]] = []
    for model in sorted(range(len(models)), key=lambda m: (-load[m], m)):
        used = [sum(models[m].weights_gb for m in group) for group in groups]
        room = [g for g, gb in enumerate(used) if gb + models[model].weights_gb <= memory_gb + 1e-9]
        if room:
            groups[min(room, key=lambda g: sum(load[m] for m in groups[g]))].append(model)
        elif len(groups) < devices and models[model].weights_gb <= memory_gb + 1e-9:
            groups.append([model])
    loads = [max(sum(load[m] for m in group), 1e-9) for group in groups]
    dealt: list[list[int]] = [[] for _ in groups]
    for device in range(devices if groups else 0):
        dealt[min(range(len(groups)), key=lambda g: (len(dealt[g]) / loads[g], g))].append(device)
    return list(zip(groups, dealt, strict=True))


class Shepherd:
    """FLEX over HERD's groups."""

    def __init__(self, traffic: Sequence[Traffic]) -> None:
        self._traffic = traffic

    def begin(self, world: World) -> None:
        self._world = world
        hardware = world.hardware
        self._queues: list[list[tuple[float, int]]] = [[] for _ in world.models]
        self._groups = herd(world.models, self._traffic, hardware.devices, hardware.memory_gb)
        self._group_of = {m: g for g, (models, _) in enumerate(self._groups) for m in models}
        self._home = {d: g for g, (_, devices) in enumerate(self._groups) for d in devices}
        self._running: dict[int, tuple[int, Batch] | None] = {}
        self._deadline: dict[int, float] = {}
        for models, devices in self._groups:
            for device in devices:
                self._running[device] = None
                for model in models:
                    world.place(device, model)

    def arrived(self, now: float, request: int, model: int, deadline: float) -> None:
        group = self._group_of.get(model)
        if group is None or not self._groups[group][1]:
            self._world.refuse(request)
            return
        heapq.heappush(self._queues[model], (deadline, request))
        self._schedule(now, group)

    def finished(self, now: float, lane: int, model: int, batch: Batch) -> None:
        self._running[lane] = None
        self._schedule(now, self._home[lane])

    def loaded(self, now: float, device: int, model: int) -> None: ...

    def woken(self, now: float) -> None: ...

    def changed(self, now: float, device: int, up: bool, lost: Batch) -> None:
        for request in lost:
            self._world.refuse(request)
        if not up and device in self._running:
            del self._running[device]
            self._groups[self._home[device]][1].remove(device)

    def _schedule(self, now: float, group: int) -> None:
        models, devices = self._groups[group]
        while True:
            candidate = max((self._candidate(now, model) for model in models), default=(0, 0.0, -1))
            size, _, model = candidate
            if size == 0:
                return
            device = self._device_for(size, devices)
            if device < 0:
                return
            batch = [heapq.heappop(self._queues[model])[1] for _ in range(size)]
            self._running[device] = (model, batch)
            self._world.start(device, model, batch)

    def _candidate(self, now: float, model: int) -> tuple[int, float, int]:
        """Largest feasible batch, its urgency, its model."""
        service, queue = self._world.models[model].service_s, self._queues[model]
        while queue and queue[0][0] < now + service[0]:
            self._world.refuse(heapq.heappop(queue)[1])
        if not queue:
            return 0, 0.0, model
        most = min(len(queue), len(service)) if self._world.batching else 1
        size = 1
        while size < most and now + service[size] <= queue[0][0]:
            size += 1
        return size, -queue[0][0], model

    def _device_for(self, size: int, devices: Sequence[int]) -> int:
        smallest, victim = 0, -1
        for device in devices:
            running = self._running[device]
            if running is None:
                return device
            if victim < 0 or len(running[1]) < smallest:
                smallest, victim = len(running[1]), device
        if victim >= 0 and size >= LAMBDA * smallest:
            self._preempt(victim)
            return victim
        return -1

    def _preempt(self, device: int) -> None:
        running = self._running[device]
        assert running is not None  # noqa: S101 (only a busy device is a victim)
        for request in self._world.preempt(device):
            heapq.heappush(self._queues[running[0]], (self._world.deadline_s[request], request))
        self._running[device] = None
