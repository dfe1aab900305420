"""Covariances between pairs: what one measured co-run says about another.

Every member of the ensemble believes that nearby sensitivities *and* nearby pressures give nearby slowdowns, and
differs in what "nearby" means: resource by resource (`per_resource`), jointly over all resources (`joint`), or as the
products of sensitivity and pressure (`products`). Variances are squared log slowdowns and come from what slowdowns
are (tens of percent), not from a fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from isolation.interference.atlas import Array
from isolation.interference.rows import PairRows
from partywall.domain.profiles import ProbeSetting, Resource

_CONSTANT = 0.05
_SESSION = 2.0
_BUSY = 0.03
_DRAM = 0.05
_SAME_RESOURCE = {Resource.L2_LARGE: Resource.DRAM}  # 42 MB just spill over: the two probes press alike


@dataclass(frozen=True, slots=True)
class Structure:
    """One member's prior: variances of its parts and the length over which curves bend."""

    name: str
    per_resource: float = 0.0
    joint: float = 0.0
    products: float = 0.0
    victim_solo: float = 5e-4
    neighbour_solo: float = 3e-4
    length: float = 1.0
    probe_noise: float = 5e-3
    noise: float = 3e-4

    def covariance(self, rows: PairRows, probes: Sequence[ProbeSetting]) -> Array:
        """The n x n prior covariance of the rows' log slowdowns, without noise."""
        k = _CONSTANT + _SESSION * (
            np.outer(rows.victim_session, rows.victim_session)
            + np.outer(rows.neighbour_session, rows.neighbour_session)
        )
        k += _BUSY * np.outer(rows.victim_busy, rows.victim_busy)
        k += _DRAM * np.outer(rows.neighbour_dram, rows.neighbour_dram)
        k += self.victim_solo * (rows.victim_run[:, None] == rows.victim_run[None])
        k += self.neighbour_solo * (rows.neighbour_run[:, None] == rows.neighbour_run[None])
        return np.asarray(k + self._curves(rows, probes))

    def noises(self, rows: PairRows) -> Array:
        """Noise variance of each row: probe runs belong to another session and are trusted less."""
        return np.where(rows.with_probe, self.probe_noise, self.noise)

    def _curves(self, rows: PairRows, probes: Sequence[ProbeSetting]) -> Array:
        groups = resource_groups(probes)
        scale = np.sqrt(2.0 / np.array([_size_of(i, groups) for i in range(len(probes))]))
        s, p = rows.sensitivity * scale, rows.pressure * scale
        near = np.exp(-0.5 * _squared_distance(rows.shares))
        total = np.zeros_like(near)
        if self.joint:
            total += self.joint * _matern(s, self.length) * _matern(p, self.length) * near
        if self.per_resource:
            for group in groups:
                victim = _matern(rows.sensitivity[:, group], self.length)
                total += self.per_resource * victim * _matern(rows.pressure[:, group], self.length) * near
        if self.products:
            f = product_features(rows)
            total += self.products * f @ f.T
        return total


def resource_groups(probes: Sequence[ProbeSetting]) -> list[list[int]]:
    """Indices of the probes by the resource they press on, dial settings together."""
    groups: dict[Resource, list[int]] = {}
    for i, probe in enumerate(probes):
        groups.setdefault(_SAME_RESOURCE.get(probe.resource, probe.resource), []).append(i)
    return list(groups.values())


def product_features(rows: PairRows) -> Array:
    """Products of sensitivity and pressure by probe, their roots, both sides and the shares, in typical units."""
    product = np.clip(rows.sensitivity * rows.pressure, 0.0, None)
    return np.hstack(
        [product / 0.05, np.sqrt(product) / 0.12, rows.sensitivity / 0.2, rows.pressure / 0.15, rows.shares / 0.2]
    )


def _size_of(index: int, groups: Sequence[Sequence[int]]) -> int:
    return next(len(g) for g in groups if index in g)


def _squared_distance(x: Array) -> Array:
    square = (x * x).sum(axis=1)
    return np.asarray(np.maximum(square[:, None] + square[None] - 2.0 * x @ x.T, 0.0))


def _matern(x: Array, length: float) -> Array:
    """Matern 5/2 over the columns of x (Rasmussen and Williams 2006, eq. 4.17)."""
    d = np.sqrt(5.0 * _squared_distance(x)) / length
    return np.asarray((1.0 + d + d * d / 3.0) * np.exp(-d))


MEMBERS: tuple[Structure, ...] = (
    Structure("per-resource", per_resource=0.05),
    Structure("mixed", per_resource=0.04, joint=0.02),
    Structure("joint", joint=0.1, neighbour_solo=0.0),
    Structure("products", products=1e-3),
)
