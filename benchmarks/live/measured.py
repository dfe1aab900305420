"""The two models of live = simulated, and what a round measures of them and of the road before it plays."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from benchmarks.live.site import Perceptron, Site
from loadgen.arrivals import FloatArray, Poisson, rng_for

SMALL = Perceptron("acme", "small", 768, 6, 32, batch=4)
LARGE = Perceptron("globex", "large", 1024, 9, 64)
MODELS = (SMALL, LARGE)
PART = {SMALL.name: 0.45, LARGE.name: 0.55}
CALM_LOAD, CALM_S = 0.3, 3.0
"""Of the open loop beside which nothing has to wait long."""


@dataclass(frozen=True, slots=True)
class Profiled:
    """Seconds of a batch of 1, 2, ... requests inside the worker, and the even scatter around them."""

    batch_s: tuple[float, ...]
    scatter: float


@dataclass(frozen=True, slots=True)
class Way:
    """The road: seconds of a request beside queue and service, from one batch's end to the next one's begin, and by
    what a batch takes longer where the worker was idle."""

    outside_s: float
    gap_s: float
    wake_s: float


Measured = tuple[dict[str, Profiled], Way]


def between(before: Measured, after: Measured) -> Measured:
    """What held while something ran between two measurements, if the machine's speed changed evenly."""
    profiles = {
        name: Profiled(
            tuple((a + b) / 2 for a, b in zip(old.batch_s, after[0][name].batch_s, strict=True)),
            (old.scatter + after[0][name].scatter) / 2,
        )
        for name, old in before[0].items()
    }
    ways = [(way.outside_s, way.gap_s, way.wake_s) for way in (before[1], after[1])]
    return profiles, Way(*((a + b) / 2 for a, b in zip(*ways, strict=True)))


async def profile(place: Site) -> Measured:
    """Every batch size, and the road.

    First both models are kept busy at once, one caller each, so that they take turns: a model that finds its weights
    cold behind the other's is slower than alone. Then a calm open loop shows by what single requests take longer, and
    scatter more, where the worker is idle in between.
    """
    found: dict[str, list[FloatArray]] = {m.name: [] for m in MODELS}
    gaps_s = []
    for size in range(1, SMALL.batch + 1):
        runs = await asyncio.gather(place.closed(SMALL, 1.5, requests=size), place.closed(LARGE, 1.5))
        inside_s = [place.service_s(SMALL, size), place.service_s(LARGE, 1)]
        for model, taken in zip(MODELS, inside_s, strict=True):
            found[model.name].append(taken)
        busy_s = sum(len(run.latency_s) * float(np.mean(taken)) for run, taken in zip(runs, inside_s, strict=True))
        gaps_s.append((runs[0].elapsed_s - busy_s) / max(1, sum(len(run.latency_s) for run in runs)))
    batch_s = {
        SMALL.name: np.maximum.accumulate([float(np.mean(taken)) for taken in found[SMALL.name]]),
        LARGE.name: np.array([float(np.mean(np.concatenate(found[LARGE.name])))]),
    }
    outside_s, single_s = await _calm(place, {name: float(held[0]) for name, held in batch_s.items()})
    profiles = {
        name: Profiled(tuple(held.tolist()), _scatter(taken))
        for (name, held), taken in zip(batch_s.items(), single_s.values(), strict=True)
    }
    wake_s = statistics.mean(float(np.mean(single_s[name])) - float(held[0]) for name, held in batch_s.items())
    gap_s = min(outside_s, max(0.0, statistics.median(gaps_s)))
    return profiles, Way(outside_s, gap_s, max(0.0, wake_s))


async def _calm(place: Site, service_s: Mapping[str, float]) -> tuple[float, dict[str, FloatArray]]:
    """Mean latency of a calm open loop beside what agent and worker say, and the service times of single requests."""
    arrivals = [
        Poisson(CALM_LOAD * PART[m.name] / service_s[m.name]).times_s(rng_for(1, m.name), CALM_S) for m in MODELS
    ]
    tables = await place.open(list(zip(MODELS, arrivals, strict=True)), {m.name: 10.0 for m in MODELS})
    outside_s = [
        float(np.mean(table.latency_s)) - place.inside_s(model, len(table))
        for model, table in zip(MODELS, tables, strict=True)
    ]
    return max(0.0, statistics.mean(outside_s)), {m.name: place.service_s(m, 1) for m in MODELS}


def _scatter(taken_s: FloatArray) -> float:
    """Half of the even range, over the median, that has the same middle eight tenths."""
    low, high = np.quantile(taken_s, [0.1, 0.9])
    return round(min(0.5, float(high - low) / 2 / 0.8 / float(np.median(taken_s))), 3)
