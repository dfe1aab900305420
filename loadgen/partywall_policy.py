"""Partywall's own policy driven by the simulated world: the router's pool and the devices' schedules, unchanged."""

from __future__ import annotations

from collections.abc import Sequence

from loadgen.world import Batch, World
from router.policy.catalog import Traffic
from router.policy.pool import Pool, PoolLimits
from router.policy.rehearsal import Effort, improved
from router.policy.replication import first_plan
from router.policy.schedule import DeviceSchedule


class PartywallPolicy:
    """Hands the world's events to `Pool` and the pool's decisions to the world."""

    def __init__(
        self, traffic: Sequence[Traffic], limits: PoolLimits | None = None, effort: Effort | None = None
    ) -> None:
        self._traffic = traffic
        self._limits = limits
        self._effort = effort

    def begin(self, world: World) -> None:
        self._world = world
        hardware = world.hardware
        schedules = [DeviceSchedule(d, world.models, hardware.memory_gb) for d in range(hardware.devices)]
        limits = self._limits or PoolLimits(batching=world.batching, swap=world.swap)
        plan = first_plan(world.models, self._traffic, hardware.devices, hardware.memory_gb)
        if not limits.swap:
            # Nothing will mend the plan later: it is worth more thought.
            plan = improved(world.models, self._traffic, plan, hardware.memory_gb, self._effort)
        for device, residents in enumerate(plan):
            for model in residents:
                world.place(device, model)
                schedules[device].ready_s[model] = 0.0
                schedules[device].free_gb -= world.models[model].weights_gb
        self._pool = Pool(world.models, self._traffic, schedules, hardware.load_gb_per_s, self, limits)

    def arrived(self, now: float, request: int, model: int, deadline: float) -> None:
        self._pool.arrived(now, request, model, deadline)

    def finished(self, now: float, lane: int, model: int, batch: Batch) -> None:
        self._pool.finished(now, lane, model)

    def loaded(self, now: float, device: int, model: int) -> None:
        self._pool.loaded(now, device, model)

    def woken(self, now: float) -> None: ...

    def changed(self, now: float, device: int, up: bool, lost: Batch) -> None:
        """What was running or promised on a dead device is offered again, with the time it has left."""
        if up:
            self._pool.joined(now, device)
            return
        for request in (*lost, *self._pool.lost(device)):
            self._pool.arrived(now, request, self._world.model_of[request], self._world.deadline_s[request])

    # -- the pool's actuator ------------------------------------------------------------------------------------

    def start(self, device: int, model: int, requests: Sequence[int]) -> None:
        self._world.start(device, model, requests)

    def load(self, device: int, model: int, victims: Sequence[int]) -> None:
        for victim in victims:
            self._world.evict(device, victim)
        self._world.load(device, model)

    def refuse(self, request: int) -> None:
        self._world.refuse(request)
