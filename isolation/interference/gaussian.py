"""Gaussian-process regression with predictions for rows seen and unseen.

Every inner leave-one-model-out is linear algebra on the one precision matrix (Rasmussen and Williams 2006, eqs. 2.25,
2.26 and 5.12, the last one extended from a point to a block).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from isolation.interference.mixtures import Array

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
    """A process that has seen rows. `mean` is the prior mean of those rows, `target` what was measured."""

    target: Array
    mean: Array
    precision: Array
    weights: Array

    def predict(self, mean: Array, cross: Array, prior: Array) -> Belief:
        """For new rows: their prior mean, `cross` (new x seen), `prior` their own covariance with noise."""
        return Belief(mean + cross @ self.weights, np.asarray(prior - cross @ self.precision @ cross.T))

    def leave_out(self, positions: Index) -> Belief:
        """What the process would have predicted for these positions of the seen rows, had it not seen them."""
        block = np.linalg.inv(self.precision[np.ix_(positions, positions)])
        return Belief(self.target[positions] - block @ self.weights[positions], np.asarray(block))


def condition(covariance: Array, noise: Array, mean: Array, target: Array) -> Conditioned:
    """`covariance` of the seen rows without noise, their noise variances, prior means and targets."""
    precision = np.asarray(np.linalg.inv(covariance + np.diag(noise)), dtype=np.float64)
    return Conditioned(target, mean, precision, precision @ (target - mean))


def pool(beliefs: Sequence[Belief], weights: Array) -> Belief:
    """One belief from the members': their disagreement is uncertainty too (mixture moments)."""
    mean = np.tensordot(weights, np.array([b.mean for b in beliefs]), 1)
    covariance = np.zeros_like(beliefs[0].covariance)
    for weight, belief in zip(weights, beliefs, strict=True):
        away = belief.mean - mean
        covariance += weight * (belief.covariance + np.outer(away, away))
    return Belief(mean, covariance)
