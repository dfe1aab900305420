"""Least loaded: placement as in round robin, each request to the replica whose queue is done first, no admission."""

from __future__ import annotations

from collections.abc import Sequence

from loadgen.baselines.fifo import FifoLanes, spread
from loadgen.world import World


class LeastLoaded(FifoLanes):
    """Join the shortest queue, measured in work."""

    def place(self, world: World) -> None:
        for device, models in enumerate(spread(world.models, world.hardware.devices, world.hardware.memory_gb)):
            for model in models:
                self.host(world, device, model)

    def choose(self, now: float, model: int, lanes: Sequence[int]) -> int:
        free_s = self.free_s
        return min(lanes, key=lambda lane: (free_s[lane], lane))
