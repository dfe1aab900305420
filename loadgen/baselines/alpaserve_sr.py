"""AlpaServe's selective replication (OSDI'23, `replica_placement_fast_greedy` with one device per group).

Placement: simulate a training workload, take the model with the most unserved requests, put one more replica on the
device with the fewest served requests that has room, simulate again, until nothing fits. The training workload is
drawn from the rates and variations of the plan, never from the arrivals ahead. Running: a request goes to the hosting
device that frees first, first come first served, and is refused at once when its finish would miss the objective.
AlpaServe adds 11 ms of overhead to that check in its own simulator; this one adds none.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from loadgen.baselines.fifo import FifoLanes
from loadgen.world import World
from router.policy.catalog import ServedModel, Traffic

TRAINING_REQUESTS = 3000


class AlpaServeSR(FifoLanes):
    """Selective replication, greedy."""

    admission = True

    def __init__(self, traffic: Sequence[Traffic]) -> None:
        self._traffic = traffic

    def place(self, world: World) -> None:
        workload = training_workload(self._traffic, random.Random(world.seed))
        for device, models in enumerate(
            greedy(world.models, workload, world.hardware.devices, world.hardware.memory_gb)
        ):
            for model in models:
                self.host(world, device, model)

    def choose(self, now: float, model: int, lanes: Sequence[int]) -> int:
        free_s = self.free_s
        return min(lanes, key=lambda lane: (free_s[lane], lane))


def training_workload(
    traffic: Sequence[Traffic], rng: random.Random, requests: int = TRAINING_REQUESTS
) -> list[tuple[float, int]]:
    """Arrivals with gamma gaps of the given rates and variations: (seconds, model) in order."""
    total = sum(t.rate_per_s for t in traffic)
    until = requests / total if total > 0 else 0.0
    arrivals: list[tuple[float, int]] = []
    for model, held in enumerate(traffic):
        if held.rate_per_s <= 0:
            continue
        shape = 1 / max(held.cv, 0.05) ** 2
        at = rng.gammavariate(shape, 1 / (shape * held.rate_per_s)) * rng.random()
        while at < until:
            arrivals.append((at, model))
            at += rng.gammavariate(shape, 1 / (shape * held.rate_per_s))
    arrivals.sort()
    return arrivals


def _replay(
    models: Sequence[ServedModel], workload: Sequence[tuple[float, int]], hosts: Sequence[Sequence[int]], devices: int
) -> tuple[list[int], list[int]]:
    """Unserved requests per model and served ones per device."""
    free_s = [0.0] * devices
    unserved, served = [0] * len(models), [0] * devices
    for at, model in workload:
        held = models[model]
        device = min(hosts[model], key=free_s.__getitem__, default=-1)
        finish = max(at, free_s[device]) + held.service_s[0]
        if device < 0 or finish > at + held.objective_s + 1e-9:
            unserved[model] += 1
        else:
            free_s[device] = finish
            served[device] += 1
    return unserved, served


def greedy(
    models: Sequence[ServedModel], workload: Sequence[tuple[float, int]], devices: int, memory_gb: float
) -> list[list[int]]:
    """Models per device."""
    hosts: list[list[int]] = [[] for _ in models]
    free = [memory_gb] * devices
    full: set[int] = set()
    while len(full) < len(models):
        unserved, served = _replay(models, workload, hosts, devices)
        model = max((m for m in range(len(models)) if m not in full), key=lambda m: (unserved[m], -m))
        room = [d for d in range(devices) if d not in hosts[model] and free[d] + 1e-9 >= models[model].weights_gb]
        if not room:
            full.add(model)
            continue
        device = min(room, key=lambda d: (served[d], -free[d], d))
        hosts[model].append(device)
        free[device] -= models[model].weights_gb
    return [[m for m in range(len(models)) if d in hosts[m]] for d in range(devices)]
