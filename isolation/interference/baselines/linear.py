"""Predictors to be shown beside ours: none, one constant, and gpulet's linear form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from isolation.interference.atlas import Atlas
from isolation.interference.mixtures import Array
from isolation.interference.rows import Colocation, Group

_MIN_ROWS = 10


class Baseline(Protocol):
    """Predicts slowdowns from rows seen before."""

    def predict(self, rows: Sequence[Colocation]) -> Array: ...


@dataclass(frozen=True, slots=True)
class NoInterference:
    """Neighbours cost nothing."""

    def predict(self, rows: Sequence[Colocation]) -> Array:
        return np.ones(len(rows))


@dataclass(frozen=True, slots=True)
class Constant:
    """The mean slowdown of the training rows of the same group; of the pairs where the group was never seen."""

    by_group: Mapping[Group | None, float]

    @classmethod
    def fit(cls, rows: Sequence[Colocation]) -> Constant:
        groups = {r.group for r in rows}
        return cls({g: float(np.mean([r.slowdown for r in rows if r.group is g])) for g in groups})

    def predict(self, rows: Sequence[Colocation]) -> Array:
        default = self.by_group.get(Group.PAIRS, 1.0)
        return np.array([self.by_group.get(r.group, default) for r in rows])


@dataclass(frozen=True, slots=True)
class Gpulet:
    """gpulet's interference factor (Choi et al., ATC'22): linear in two utilisations of the victim and the aggressors.

    Their counters are L2 and DRAM utilisation scaled by the partition; here SM and DRAM utilisation measured at the
    share itself, summed over the neighbours. Least squares per group; pairs where a group has too few rows.
    """

    atlas: Atlas
    weights: Mapping[Group | None, Array]

    @classmethod
    def fit(cls, atlas: Atlas, rows: Sequence[Colocation]) -> Gpulet:
        weights = {}
        for group in {r.group for r in rows}:
            members = [r for r in rows if r.group is group]
            if len(members) >= _MIN_ROWS:
                x = _design(atlas, members)
                weights[group] = np.linalg.lstsq(x, np.array([r.slowdown for r in members]), rcond=None)[0]
        return cls(atlas, weights)

    def predict(self, rows: Sequence[Colocation]) -> Array:
        default = self.weights.get(Group.PAIRS, np.array([1.0, 0.0, 0.0, 0.0, 0.0]))
        x = _design(self.atlas, rows)
        return np.array([x[i] @ self.weights.get(r.group, default) for i, r in enumerate(rows)])


def _design(atlas: Atlas, rows: Sequence[Colocation]) -> Array:
    def utilisation(resident_counters: object) -> tuple[float, float]:
        sm, dram = getattr(resident_counters, "sm_util", 0.0), getattr(resident_counters, "dram_bw", 0.0)
        return float(sm) / 100, float(dram) / 100

    columns = []
    for row in rows:
        victim = utilisation(atlas.counters(row.victim))
        others = np.array([utilisation(atlas.counters(n)) for n in row.neighbours]).sum(axis=0)
        columns.append([1.0, *victim, *others])
    return np.array(columns).reshape(len(rows), 5)
