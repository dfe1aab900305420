"""Round robin: models dealt out over the devices, each model's requests over its replicas in turn, no admission."""

from __future__ import annotations

from collections.abc import Sequence

from loadgen.baselines.fifo import FifoLanes, spread
from loadgen.world import World


class RoundRobin(FifoLanes):
    """The load balancer in front of model servers that know nothing of deadlines."""

    def place(self, world: World) -> None:
        for device, models in enumerate(spread(world.models, world.hardware.devices, world.hardware.memory_gb)):
            for model in models:
                self.host(world, device, model)
        self._turn = [0] * len(world.models)

    def choose(self, now: float, model: int, lanes: Sequence[int]) -> int:
        self._turn[model] += 1
        return lanes[self._turn[model] % len(lanes)]
