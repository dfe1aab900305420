"""The first plan of a pool: how many replicas of which model, chosen by rates and burstiness, and where."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from router.policy.catalog import ServedModel, Traffic
from router.policy.renewal import gap_within


def shortfall_per_s(model: ServedModel, traffic: Traffic, replicas: int) -> float:
    """Arrivals a second that this many replicas would leave unserved, roughly.

    A cluster goes on while gaps are shorter than the service time, so its size is geometric with that chance; one
    replica clears objective / latency of a cluster in time, each further one the same part of what is left.
    """
    goes_on = min(0.999, gap_within(traffic.rate_per_s, traffic.cv, model.service_s[0]))
    clears = max(1.0, model.objective_s // model.service_s[0])
    return float(traffic.rate_per_s * goes_on ** (clears * replicas))


def first_plan(
    models: Sequence[ServedModel], traffic: Sequence[Traffic], devices: int, memory_gb: float
) -> list[list[int]]:
    """Models per device. Greedy: the replica that saves most per GB goes to the least loaded device with room."""
    free = [memory_gb] * devices
    ring = [(0.0, device) for device in range(devices)]
    least_gb = min((m.weights_gb for m in models), default=0.0)
    placed: list[list[int]] = [[] for _ in range(devices)]
    counts = [0] * len(models)

    def gain(model: int) -> float:
        held = models[model]
        saved = shortfall_per_s(held, traffic[model], counts[model]) - shortfall_per_s(
            held, traffic[model], counts[model] + 1
        )
        return saved / max(held.weights_gb, 1e-3)

    heap = [(-gain(model), model) for model in range(len(models)) if traffic[model].rate_per_s > 0]
    heapq.heapify(heap)
    while heap:
        _, model = heapq.heappop(heap)
        need = models[model].weights_gb - 1e-9
        passed: list[tuple[float, int]] = []
        while ring and (free[ring[0][1]] < need or model in placed[ring[0][1]]):
            passed.append(heapq.heappop(ring))
        taken = heapq.heappop(ring) if ring else None
        for held in passed:
            if free[held[1]] >= least_gb - 1e-9:
                heapq.heappush(ring, held)
        if taken is None:
            continue
        load, device = taken
        free[device] -= models[model].weights_gb
        load += traffic[model].rate_per_s * models[model].service_s[0] / (counts[model] + 1)
        heapq.heappush(ring, (load, device))
        placed[device].append(model)
        counts[model] += 1
        if counts[model] < devices:
            heapq.heappush(heap, (-gain(model), model))
    return placed
