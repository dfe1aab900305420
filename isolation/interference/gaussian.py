"""Gaussian-process regression on one set of rows, conditioned on any subset of it.

The covariance of all rows, the ones to be predicted included, is computed once; conditioning and every inner
leave-one-model-out then are linear algebra on submatrices (Rasmussen and Williams 2006, eqs. 2.25, 2.26 and 5.12
extended from a point to a block).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from isolation.interference.atlas import Array
from isolation.interference.kernels import Structure
from isolation.interference.rows import PairRows
from partywall.domain.profiles import ProbeSetting

Index = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Belief:
    """Mean and covariance (observation noise included) of log slowdowns."""

    mean: Array
    covariance: Array

    @property
    def deviation(self) -> Array:
        return np.asarray(np.sqrt(np.diag(self.covariance)))


@dataclass(frozen=True, slots=True)
class Conditioned:
    """A process that has seen `train`. `level` is the mean it falls back to: the constant of the training co-runs."""

    covariance: Array
    noise: Array
    target: Array
    train: Index
    level: float
    precision: Array
    weights: Array

    def predict(self, rows: Index) -> Belief:
        cross = self.covariance[np.ix_(rows, self.train)]
        prior = self.covariance[np.ix_(rows, rows)] + np.diag(self.noise[rows])
        return Belief(self.level + cross @ self.weights, prior - cross @ self.precision @ cross.T)

    def leave_out(self, positions: Index) -> Belief:
        """What the process would have predicted for these positions of `train`, had it not seen them."""
        block = np.linalg.inv(self.precision[np.ix_(positions, positions)])
        return Belief(self.target[self.train][positions] - block @ self.weights[positions], block)


@dataclass(frozen=True, slots=True)
class Processes:
    """The ensemble's priors over all rows. `co_runs` marks rows of two models (not probe runs)."""

    covariances: tuple[Array, ...]
    noises: tuple[Array, ...]
    target: Array
    co_runs: NDArray[np.bool_]

    def condition(self, train: Index, member: int) -> Conditioned:
        covariance, noise = self.covariances[member], self.noises[member]
        level = float(self.target[train][self.co_runs[train]].mean()) if self.co_runs[train].any() else 0.0
        precision = np.linalg.inv(covariance[np.ix_(train, train)] + np.diag(noise[train]))
        weights = precision @ (self.target[train] - level)
        return Conditioned(covariance, noise, self.target, train, level, precision, weights)


def prepare(rows: PairRows, members: Sequence[Structure], probes: Sequence[ProbeSetting]) -> Processes:
    return Processes(
        covariances=tuple(m.covariance(rows, probes) for m in members),
        noises=tuple(m.noises(rows) for m in members),
        target=rows.target,
        co_runs=~rows.with_probe,
    )


def pool(beliefs: Sequence[Belief], weights: Array) -> Belief:
    """One belief from the members': their disagreement is uncertainty too (mixture moments)."""
    mean = np.tensordot(weights, np.array([b.mean for b in beliefs]), 1)
    covariance = np.zeros_like(beliefs[0].covariance)
    for weight, belief in zip(weights, beliefs, strict=True):
        away = belief.mean - mean
        covariance += weight * (belief.covariance + np.outer(away, away))
    return Belief(mean, covariance)
