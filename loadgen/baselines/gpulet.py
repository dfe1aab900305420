"""gpulet (ATC'22): at most two partitions a device, sized at the knee, batches filled within a duty cycle.

For each model, busiest first, its rate is raised to the 99th percentile of its Poisson counts. p_eff is the partition
with the most rate per share (the knee), p_req the smallest that carries what is left of the rate; the smaller is
wanted: best fit among free partitions, else a whole device is split. A batch b is allowed when
1.1 exec(b, p) + gathering <= objective; gathering is (b - 1) / rate, so that a batch of one does not wait. What finds
no partition shares one in time. With a `GpuletProfile` latencies come from it, and a partition is refused when the
neighbour in the other half would break: lat x alpha + 2 x gathering > objective (either's, where the newcomer has a
neighbour). Without one exec(b, p) = exec(b) / p, the pessimistic straight line, and nobody is slowed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from loadgen.baselines.fifo import FifoLanes
from loadgen.world import World
from router.policy.catalog import ServedModel, Traffic

PARTITIONS = (20, 40, 50, 60, 80, 100)
GUARD = 1.1


class GpuletProfile(Protocol):
    """What the rule knows of models by partition: their latency alone, and its interference factor alpha."""

    def service_s(self, model: int, percent: int, size: int) -> float: ...

    def alpha(self, victim: int, percent: int, aggressor: int, aggressor_percent: int) -> float: ...


@dataclass(frozen=True, slots=True)
class StraightLine:
    """Latency in inverse proportion to the partition, nobody slowed."""

    models: Sequence[ServedModel]

    def service_s(self, model: int, percent: int, size: int) -> float:
        return self.models[model].service_s[size - 1] / (percent / 100)

    def alpha(self, victim: int, percent: int, aggressor: int, aggressor_percent: int) -> float:
        return 1.0


@dataclass(slots=True)
class Gpulet:
    """One partition of a device: percent of it, and (model, rate, batch) that it serves."""

    device: int
    percent: int
    serves: list[tuple[int, float, int]] = field(default_factory=list)

    def used(self, profile: GpuletProfile) -> float:
        """The part of its time that is taken."""
        return sum(rate * profile.service_s(m, self.percent, batch) / batch for m, rate, batch in self.serves)


def inflated(rate_per_s: float) -> float:
    """The 99th percentile of a second's Poisson count (normal form; 50 -> 67, 100 -> 124, 200 -> 233)."""
    return rate_per_s + 2.326 * math.sqrt(rate_per_s) if rate_per_s > 0 else 0.0


def capacity(
    profile: GpuletProfile, models: Sequence[ServedModel], model: int, percent: int, batching: bool
) -> tuple[float, int]:
    """Most requests a second within the objective in a partition, and the batch that gives it; (0, 1): none."""
    best = (0.0, 1)
    for size in range(1, (models[model].max_batch if batching else 1) + 1):
        took = profile.service_s(model, percent, size)
        rate = size / took
        if GUARD * took + (size - 1) / rate <= models[model].objective_s + 1e-9 and rate > best[0] * (1 + 1e-9):
            best = (rate, size)
    return best


class _Plan:
    def __init__(
        self,
        models: Sequence[ServedModel],
        profile: GpuletProfile,
        devices: int,
        memory_gb: float,
        batching: bool,
    ) -> None:
        self.models = models
        self.profile = profile
        self.batching = batching
        self.free_gb = [memory_gb] * devices
        self.whole = list(range(devices))
        self.free: list[Gpulet] = []
        self.lets: list[Gpulet] = []
        self.resident: set[tuple[int, int]] = set()

    def fits(self, device: int, model: int) -> bool:
        return (device, model) in self.resident or self.free_gb[device] + 1e-9 >= self.models[model].weights_gb

    def give(self, let: Gpulet, model: int, rate: float, batch: int) -> None:
        if (let.device, model) not in self.resident:
            self.resident.add((let.device, model))
            self.free_gb[let.device] -= self.models[model].weights_gb
        let.serves.append((model, rate, batch))

    def allot(self, model: int, rate: float) -> None:
        """Partitions for one model until its rate is carried or nothing is left."""
        left = rate
        while left > 1e-9:
            let = self._partition(model, left)
            if let is None:
                self._share_time(model, left)
                return
            most, batch = capacity(self.profile, self.models, model, let.percent, self.batching)
            self.give(let, model, min(left, most), batch)
            left -= most

    def _partition(self, model: int, rate: float) -> Gpulet | None:
        able = {p: capacity(self.profile, self.models, model, p, self.batching)[0] for p in PARTITIONS}
        if not any(able.values()):
            return None
        effective = max(PARTITIONS, key=lambda p: (round(able[p] / p, 9), -p))
        required = next((p for p in PARTITIONS if able[p] >= rate), 100)
        ideal = max(min(effective, required), next(p for p in PARTITIONS if able[p] > 0))
        fitting = [
            let
            for let in self.free
            if let.percent >= ideal and self.fits(let.device, model) and self._bearable(let, model)
        ]
        if fitting:
            let = min(fitting, key=lambda held: held.percent)
            self.free.remove(let)
        elif any(self.fits(device, model) for device in self.whole):
            device = next(d for d in self.whole if self.fits(d, model))
            self.whole.remove(device)
            let = Gpulet(device, ideal)
            if ideal < 100:
                self.free.append(Gpulet(device, 100 - ideal))
        else:
            return None
        self.lets.append(let)
        return let

    def _bearable(self, let: Gpulet, model: int) -> bool:
        """Whether nobody in the other half of the device, nor the newcomer beside them, would break."""
        profile, models = self.profile, self.models
        for beside in self.lets:
            if beside.device != let.device:
                continue
            for other, rate, batch in beside.serves:
                there, here = (other, beside.percent), (model, let.percent)
                slowed = profile.service_s(*there, batch) * profile.alpha(*there, *here)
                if slowed + 2 * (batch - 1) / max(rate, 1e-9) > models[other].objective_s + 1e-9:
                    return False
                if profile.service_s(*here, 1) * profile.alpha(*here, *there) > models[model].objective_s + 1e-9:
                    return False
        return True

    def _share_time(self, model: int, rate: float) -> None:
        """Into the emptiest used partition with memory that is fast enough (failing that, any with memory), or none."""
        able = [let for let in self.lets if self.fits(let.device, model)]
        if not able and self.free:
            self.lets += [let for let in self.free if self.fits(let.device, model)]
            self.free = [let for let in self.free if let not in self.lets]
            able = [let for let in self.lets if self.fits(let.device, model)]
        quick = [let for let in able if capacity(self.profile, self.models, model, let.percent, self.batching)[0] > 0]
        able = quick or able
        if able:
            let = min(able, key=lambda held: held.used(self.profile))
            self.give(let, model, rate, 1)


def gpulet_plan(
    models: Sequence[ServedModel],
    traffic: Sequence[Traffic],
    profile: GpuletProfile,
    devices: int,
    memory_gb: float,
    *,
    batching: bool,
) -> list[Gpulet]:
    """The partitions that the rule makes, busiest model first."""
    plan = _Plan(models, profile, devices, memory_gb, batching)
    order = sorted(range(len(models)), key=lambda m: (-traffic[m].rate_per_s * models[m].service_s[0], m))
    for model in order:
        plan.allot(model, inflated(traffic[model].rate_per_s))
    return plan.lets


class GpuletPolicy(FifoLanes):
    """Fixed partitions; a model's requests over its partitions by their share of its rate."""

    def __init__(self, traffic: Sequence[Traffic], profile: GpuletProfile | None = None) -> None:
        self._traffic = traffic
        self._profile = profile

    def place(self, world: World) -> None:
        hardware = world.hardware
        profile = self._profile or StraightLine(world.models)
        lets = gpulet_plan(
            world.models, self._traffic, profile, hardware.devices, hardware.memory_gb, batching=world.batching
        )
        self._batch: dict[tuple[int, int], int] = {}
        self._weight: dict[tuple[int, int], float] = {}
        self._credit: dict[tuple[int, int], float] = {}
        for device in range(hardware.devices):
            here = [let for let in lets if let.device == device]
            for model in sorted({model for let in here for model, _, _ in let.serves}):
                world.place(device, model)
            if here:
                for lane, let in zip(world.cut(device, [let.percent / 100 for let in here]), here, strict=True):
                    self._open(lane, let)

    def _open(self, lane: int, let: Gpulet) -> None:
        self.shares[lane] = let.percent / 100
        for model, rate, batch in let.serves:
            if lane not in self.hosts[model]:
                self.hosts[model].append(lane)
            self._batch[lane, model] = batch
            self._weight[lane, model] = self._weight.get((lane, model), 0.0) + max(rate, 1e-9)
            self._credit[lane, model] = 0.0

    def max_batch(self, lane: int, model: int) -> int:
        return self._batch[lane, model]

    def choose(self, now: float, model: int, lanes: Sequence[int]) -> int:
        if len(lanes) == 1:
            return lanes[0]
        total = sum(self._weight[lane, model] for lane in lanes)
        for lane in lanes:
            self._credit[lane, model] += self._weight[lane, model] / total
        best = max(lanes, key=lambda lane: (self._credit[lane, model], -lane))
        self._credit[best, model] -= 1.0
        return best
