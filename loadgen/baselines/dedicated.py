"""Dedicated: one model per device, nothing shared. Models beyond the number of devices are not served."""

from __future__ import annotations

from collections.abc import Sequence

from loadgen.baselines.fifo import FifoLanes
from loadgen.world import World
from router.policy.catalog import Traffic


class Dedicated(FifoLanes):
    """Busiest models first; devices left over become replicas of the model with the most load per device."""

    def __init__(self, traffic: Sequence[Traffic]) -> None:
        self._traffic = traffic

    def place(self, world: World) -> None:
        load = [t.rate_per_s * m.service_s[0] for m, t in zip(world.models, self._traffic, strict=True)]
        fits = [m for m, held in enumerate(world.models) if held.weights_gb <= world.hardware.memory_gb]
        order = sorted(fits, key=lambda m: (-load[m], m))
        for device in range(world.hardware.devices):
            if device < len(order):
                self.host(world, device, order[device])
            elif order:
                self.host(world, device, max(order, key=lambda m: (load[m] / len(self.hosts[m]), -m)))

    def choose(self, now: float, model: int, lanes: Sequence[int]) -> int:
        free_s = self.free_s
        return min(lanes, key=lambda lane: (free_s[lane], lane))
