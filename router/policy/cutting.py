"""How to cut a few devices into partitions that several models share in time, and which models go where.

A fleet's *cut* says how many devices have which layout (one partition of 100 %, two of 50 %, ...). Partitions of equal
share and layout are one *class*: its members are resident in all of them and a request takes the first that is free, so
a class of k partitions is a queue with k servers. Small partitions give more servers and less idle width; they cost
solo latency and neighbours' noise. Which wins depends on the objectives, so every cut of at most two layouts is tried:
members are put greedily, heaviest first, where `waiting` expects the fewest misses, and moved or exchanged while that
helps. Predictions of neighbours can be wrong where their absence cannot: of the cuts that are expected to be good
enough the one with the fewest partitions is taken, and only if there is none, the one with the fewest misses. Pure.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from partywall.errors import InvalidInput
from router.policy.waiting import CutDemand, Layout, NeighbourCost, WaitEstimate

LAYOUTS: tuple[Layout, ...] = ((100,), (50, 50), (75, 25), (60, 40), (50, 25, 25), (25, 25, 25, 25))
REFINED = 4
"""Cuts whose members are also moved; the others are judged by their greedy members."""
GOOD_ENOUGH = 0.995
"""Expected attainment from which fewer partitions count for more than fewer misses."""


@dataclass(frozen=True, slots=True)
class PartitionClass:
    """Partitions of `share` percent, as many on each of `devices` as their layout has, with these members."""

    layout: Layout
    share: int
    devices: tuple[int, ...]
    members: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class CutPlan:
    """`layouts[d]` is device d's. `expected_attainment` is by the bounds; `reason` names the next best cut."""

    layouts: tuple[Layout, ...]
    classes: tuple[PartitionClass, ...]
    expected_attainment: float
    reason: str

    def members(self, device: int, share: int) -> tuple[int, ...]:
        """Who is resident in a device's partitions of this share."""
        for held in self.classes:
            if device in held.devices and held.share == share:
                return held.members
        return ()


def plan_cut(
    demands: Sequence[CutDemand],
    devices: int,
    memory_gb: float,
    cost: NeighbourCost,
    layouts: Sequence[Layout] = LAYOUTS,
    enough: float = GOOD_ENOUGH,
) -> CutPlan:
    """The cut and its members. All models must be allowed to share partitions.

    Raises:
        InvalidInput: No demand, no device, or a layout that is more than a device.
    """
    if not demands or devices < 1:
        raise InvalidInput("a cut needs at least one model and one device", fields={"field": "devices"})
    for layout in layouts:
        if not layout or sum(layout) > 100 or list(layout) != sorted(layout, reverse=True):
            raise InvalidInput(f"layout {layout} must fall and sum to at most 100 %", fields={"field": "layouts"})
    estimate = WaitEstimate(demands, memory_gb, cost)
    tried = []
    for counts in _compositions(devices, len(layouts)):
        trial = _Trial(estimate, [(layout, n) for layout, n in zip(layouts, counts, strict=True) if n])
        trial.greedy()
        tried.append(trial)
    tried.sort(key=_Trial.misses)
    for trial in tried[:REFINED]:
        trial.refine()
    tried.sort(key=lambda trial: (trial.partitions if trial.attained() >= enough else 10**9, trial.misses()))
    return tried[0].plan(tried[1] if len(tried) > 1 else None)


def _compositions(total: int, parts: int) -> list[tuple[int, ...]]:
    """Ways to divide devices between layouts, at most two layouts at once."""
    found = set()
    for a, b in itertools.combinations_with_replacement(range(parts), 2):
        for n in range(total + 1):
            counts = [0] * parts
            counts[a] += n
            counts[b] += total - n
            found.add(tuple(counts))
    return sorted(found)


class _Trial:
    """One cut: its classes, and the members being tried."""

    def __init__(self, estimate: WaitEstimate, used: Sequence[tuple[Layout, int]]) -> None:
        self._estimate = estimate
        self._used = used
        self._class_of = [
            (at, share) for at, (layout, _) in enumerate(used) for share in sorted(set(layout), reverse=True)
        ]
        self._member = [-1] * len(estimate.rate)

    @property
    def partitions(self) -> int:
        """Of all devices together."""
        return sum(len(layout) * count for layout, count in self._used)

    def greedy(self) -> None:
        """Heaviest first, each where the misses of all placed so far are fewest."""
        widest = max(share for _, share in self._class_of)
        weight = self._estimate.rate * self._estimate.solo_s(widest)
        for model in np.argsort(-weight, kind="stable").tolist():
            self._put_best(model)

    def refine(self) -> None:
        """Moves one model at a time, then exchanges two, while that helps."""
        best = self.misses()
        while True:
            before = best
            for model in range(len(self._member)):
                best = self._put_best(model)
            for one, other in itertools.combinations(range(len(self._member)), 2):
                best = self._exchange(one, other, best)
            if best >= before * (1 - 1e-6):
                return

    def _exchange(self, one: int, other: int, best: float) -> float:
        held = self._member
        if held[one] == held[other]:
            return best
        held[one], held[other] = held[other], held[one]
        found = self.misses()
        if found < best:
            return found
        held[one], held[other] = held[other], held[one]
        return best

    def _put_best(self, model: int) -> float:
        scores = []
        for held in range(len(self._class_of)):
            self._member[model] = held
            scores.append((self.misses(), held))
        best, self._member[model] = min(scores)
        return best

    def _of(self, held: int) -> tuple[int, ...]:
        return tuple(model for model, at in enumerate(self._member) if at == held)

    def misses(self) -> float:
        """Expected misses per second of the models placed."""
        found = 0.0
        for at, (layout, count) in enumerate(self._used):
            members = tuple(self._of(held) for held, (owner, _) in enumerate(self._class_of) if owner == at)
            found += self._estimate.misses_per_s(layout, count, members)
        return found

    def attained(self) -> float:
        """Expected part of requests in time."""
        return max(0.0, 1 - self.misses() / max(float(self._estimate.rate.sum()), 1e-12))

    def plan(self, second: _Trial | None) -> CutPlan:
        """This cut as an answer; `second` is named beside it."""
        layouts: list[Layout] = []
        places: list[tuple[int, ...]] = []
        for layout, count in self._used:
            places.append(tuple(range(len(layouts), len(layouts) + count)))
            layouts += [layout] * count
        classes = tuple(
            PartitionClass(self._used[at][0], share, places[at], self._of(held))
            for held, (at, share) in enumerate(self._class_of)
        )
        reason = f"{self.name}: expected attainment {self.attained():.4f}"
        if second is not None:
            reason += f"; next best {second.name}: {second.attained():.4f}"
        return CutPlan(tuple(layouts), classes, self.attained(), reason)

    @property
    def name(self) -> str:
        """Such as `3 x 50/50, 1 x 100`."""
        return ", ".join(f"{count} x {'/'.join(map(str, layout))}" for layout, count in self._used)
