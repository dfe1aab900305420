"""What simple schedulers share: fixed placement, one first-come-first-served queue per lane, no swaps."""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import Sequence

from loadgen.world import Batch, World
from router.policy.catalog import ServedModel


class FifoLanes:
    """Requests go to a lane when they arrive and run in that order; equal neighbours in a queue form a batch.

    `admission` refuses what would finish too late at the chosen lane; without it everything is queued.
    """

    admission = False

    def begin(self, world: World) -> None:
        self.world = world
        self.hosts: list[list[int]] = [[] for _ in world.models]
        self.shares: dict[int, float] = {}
        self.place(world)
        lanes = [lane for device in range(world.hardware.devices) for lane in world.lanes_of(device)]
        size = max(lanes) + 1
        self.queues: list[deque[tuple[int, int]]] = [deque() for _ in range(size)]
        self.busy = [False] * size
        self.free_s = [0.0] * size

    @abstractmethod
    def place(self, world: World) -> None:
        """Loads models and fills `hosts`: the lanes of each model."""

    def host(self, world: World, device: int, model: int) -> None:
        """Loads a model on an uncut device and lets its lane serve it."""
        world.place(device, model)
        self.hosts[model].append(world.lanes_of(device)[0])

    @abstractmethod
    def choose(self, now: float, model: int, lanes: Sequence[int]) -> int:
        """The lane for a request of a model; `lanes` is not empty."""

    def max_batch(self, lane: int, model: int) -> int:
        return self.world.models[model].max_batch if self.world.batching else 1

    def arrived(self, now: float, request: int, model: int, deadline: float) -> None:
        lanes = self.hosts[model]
        if not lanes:
            self.world.refuse(request)
            return
        lane = self.choose(now, model, lanes)
        finish = max(now, self.free_s[lane]) + self.service_s(lane, model)
        if self.admission and finish > deadline:
            self.world.refuse(request)
            return
        self.free_s[lane] = finish
        self.queues[lane].append((model, request))
        if not self.busy[lane]:
            self._start(lane)

    def service_s(self, lane: int, model: int) -> float:
        return self.world.models[model].service_s[0] / self.shares.get(lane, 1.0)

    def finished(self, now: float, lane: int, model: int, batch: Batch) -> None:
        self.busy[lane] = False
        if self.queues[lane]:
            self._start(lane)
        else:
            self.free_s[lane] = now

    def _start(self, lane: int) -> None:
        queue = self.queues[lane]
        model, request = queue.popleft()
        batch = [request]
        most = self.max_batch(lane, model)
        while queue and len(batch) < most and queue[0][0] == model:
            batch.append(queue.popleft()[1])
        self.busy[lane] = True
        end = self.world.start(lane, model, batch)
        if len(batch) > 1:
            self.free_s[lane] = end + sum(self.service_s(lane, m) for m, _ in queue)

    def loaded(self, now: float, device: int, model: int) -> None: ...

    def woken(self, now: float) -> None: ...

    def changed(self, now: float, device: int, up: bool, lost: Batch) -> None:
        """A dead device's lanes serve nobody any more; what waited there is refused."""
        for lane in self.world.lanes_of(device):
            waiting = [request for _, request in self.queues[lane]] + list(lost)
            self.queues[lane].clear()
            self.busy[lane] = False
            for lanes in self.hosts:
                if lane in lanes:
                    lanes.remove(lane)
            for request in waiting:
                self.world.refuse(request)
            lost = ()


def spread(models: Sequence[ServedModel], devices: int, memory_gb: float) -> list[list[int]]:
    """Models per device: dealt out in turn, again and again, while any still fits a device without it."""
    free = [memory_gb] * devices
    placed: list[list[int]] = [[] for _ in range(devices)]
    at = 0
    dealt = True
    while dealt:
        dealt = False
        for model, held in enumerate(models):
            for step in range(devices):
                device = (at + step) % devices
                if model not in placed[device] and free[device] + 1e-9 >= held.weights_gb:
                    placed[device].append(model)
                    free[device] -= held.weights_gb
                    at = device + 1
                    dealt = True
                    break
    return placed
