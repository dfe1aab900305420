"""A plan judged by playing it: drawn arrivals of the known rates and variations, over a fixed placement.

Where weights cannot be swapped, who stands beside whom decides what a burst finds. No closed form says that, so the
greedy first plan is improved by local search: a model that the play leaves unserved takes the place of replicas that
served least, and what is better in the play is kept. The draws are of the plan's own seed, never the arrivals ahead.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from router.policy.catalog import ServedModel, Traffic

MOVES = 0.3
"""How often a model leaves one of its devices for another, in place of coming to one more."""
LEAST_OF_EACH = 100
"""Requests that a play has to have of a model, in the mean."""
Plan = Sequence[Sequence[int]]
"""Models per device."""


@dataclass(frozen=True, slots=True)
class Effort:
    """What a rehearsal may cost: so many drawn requests, played so often."""

    requests: int = 12_000
    plays: int = 100
    seed: int = 7


@dataclass(frozen=True, slots=True)
class Played:
    """Unserved requests of each model, and served ones of each (device, model)."""

    missed: Sequence[int]
    served: Sequence[Sequence[int]]

    @property
    def misses(self) -> int:
        return sum(self.missed)


def drawn(traffic: Sequence[Traffic], effort: Effort) -> list[tuple[float, int]]:
    """(seconds, model) in order, gaps gamma distributed."""
    rng = random.Random(effort.seed)  # noqa: S311 (a drawn workload, nothing secret)
    total = sum(t.rate_per_s for t in traffic)
    until_s = effort.requests / total if total > 0 else 0.0
    found: list[tuple[float, int]] = []
    for model, held in enumerate(traffic):
        if held.rate_per_s <= 0:
            continue
        shape = 1 / max(held.cv, 0.05) ** 2
        scale = 1 / (shape * held.rate_per_s)
        at = rng.gammavariate(shape, scale) * rng.random()
        while at < until_s:
            found.append((at, model))
            at += rng.gammavariate(shape, scale)
    found.sort()
    return found


def play(models: Sequence[ServedModel], arrivals: Sequence[tuple[float, int]], plan: Plan) -> Played:
    """Each request to the replica that is free first, refused where it would be late."""
    devices = len(plan)
    hosts: list[list[int]] = [[] for _ in models]
    for device, held in enumerate(plan):
        for model in held:
            hosts[model].append(device)
    cost = [m.service_s[0] for m in models]
    patience = [m.objective_s - m.service_s[0] + 1e-9 for m in models]
    free = [0.0] * devices
    missed = [0] * len(models)
    served = [[0] * len(models) for _ in plan]
    for at, model in arrivals:
        best, best_s = -1, at + patience[model]
        for device in hosts[model]:
            start = free[device]
            if start <= best_s:
                best, best_s = device, start
                if start <= at:
                    break
        if best < 0:
            missed[model] += 1
        else:
            free[best] = (best_s if best_s > at else at) + cost[model]
            served[best][model] += 1
    return Played(missed, served)


def improved(
    models: Sequence[ServedModel],
    traffic: Sequence[Traffic],
    start: Plan,
    memory_gb: float,
    effort: Effort | None = None,
) -> list[list[int]]:
    """The plan after local search, or `start` where that is as good; the same for the same arguments.

    With many models a play has too few requests of each to tell plans apart: then it is `start`, too.
    """
    effort = effort or Effort()
    if len(models) * LEAST_OF_EACH > effort.requests:
        return [list(held) for held in start]
    arrivals = drawn(traffic, effort)
    rng = random.Random(effort.seed + 1)  # noqa: S311
    plan = [list(held) for held in start]
    best = play(models, arrivals, plan)
    for _ in range(effort.plays):
        if not best.misses:
            break
        tried = _changed(models, plan, best, memory_gb, rng)
        if tried is None:
            continue
        found = play(models, arrivals, tried)
        if found.misses < best.misses:
            best, plan = found, tried
    # The best of many on one draw is partly luck: it has to be better on another, too.
    fresh = drawn(traffic, replace(effort, seed=effort.seed + 2))
    if play(models, fresh, plan).misses < play(models, fresh, start).misses:
        return plan
    return [list(held) for held in start]


def _changed(
    models: Sequence[ServedModel], plan: list[list[int]], played: Played, memory_gb: float, rng: random.Random
) -> list[list[int]] | None:
    """A neighbouring plan: a model with misses comes to, or moves to, one more device, over residents that served
    little per GB there. Nobody loses the last replica: who would is placed elsewhere, or the change is none."""
    model = rng.choices(range(len(models)), [1 + missed for missed in played.missed])[0]
    weights = [m.weights_gb for m in models]
    open_to_it = [d for d, held in enumerate(plan) if model not in held]
    if not open_to_it or weights[model] > memory_gb:
        return None
    device = rng.choice(open_to_it)
    tried = [list(held) for held in plan]
    here = [d for d, held in enumerate(plan) if model in held]
    if here and rng.random() < MOVES:
        tried[rng.choice(here)].remove(model)
    kept = tried[device]
    leaving = sorted(kept, key=lambda m: rng.random() * (1 + played.served[device][m]) / max(weights[m], 1e-3))
    kept.append(model)
    free_gb = [memory_gb - sum(weights[m] for m in held) + 1e-9 for held in tried]
    homeless: list[int] = []
    for gone in leaving:
        if free_gb[device] >= 0:
            break
        kept.remove(gone)
        free_gb[device] += weights[gone]
        if not any(gone in held for held in tried):
            homeless.append(gone)
    for gone in homeless:
        roomy = [d for d, free in enumerate(free_gb) if d != device and free >= weights[gone]]
        if not roomy:
            return None
        home = rng.choice(roomy)
        tried[home].append(gone)
        free_gb[home] -= weights[gone]
    _fill(tried, free_gb, weights, [missed * rng.random() for missed in played.missed])
    return tried


def _fill(plan: list[list[int]], free_gb: list[float], weights: Sequence[float], wanted: Sequence[float]) -> None:
    """Room that is left goes to further replicas, the most wanted model first."""
    for model in sorted(range(len(weights)), key=lambda m: -wanted[m]):
        for device, held in enumerate(plan):
            if model not in held and weights[model] <= free_gb[device]:
                held.append(model)
                free_gb[device] -= weights[model]
