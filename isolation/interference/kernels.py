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

from isolation.interference.mixtures import Array
from isolation.interference.rows import PairRows
from partywall.domain.profiles import ProbeSetting, Resource

_CONSTANT = 0.05
_SESSION = 2.0
_BUSY = 0.03
_DRAM = 0.05
_STARVED = 0.1
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
    probe_noise: float = 2e-2
    noise: float = 3e-4

    def covariance(self, a: PairRows, b: PairRows, probes: Sequence[ProbeSetting]) -> Array:
        """Prior covariance (a's rows x b's rows) of log slowdowns, without noise."""
        k = _SESSION * a.session @ b.session.T
        k += _BUSY * np.outer(a.victim_busy, b.victim_busy)
        k += _DRAM * np.outer(a.neighbour_dram, b.neighbour_dram)
        k += _STARVED * np.outer(a.starved, b.starved)
        k += self.victim_solo * (a.victim_run[:, None] == b.victim_run[None])
        k += self.neighbour_solo * (a.neighbour_run[:, None] == b.neighbour_run[None])
        return np.asarray(_CONSTANT + k + self._curves(a, b, probes))

    def noises(self, rows: PairRows) -> Array:
        """Noise variance of each row: probe runs belong to another session and are trusted less."""
        return np.where(rows.with_probe, self.probe_noise, self.noise)

    def _curves(self, a: PairRows, b: PairRows, probes: Sequence[ProbeSetting]) -> Array:
        groups = resource_groups(probes)
        near = np.exp(-0.5 * _squared_distance(a.shares, b.shares))
        total = np.zeros_like(near)
        if self.joint:
            scale = np.sqrt(2.0 / np.array([_size_of(i, groups) for i in range(len(probes))]))
            victim = _matern(a.sensitivity * scale, b.sensitivity * scale, self.length)
            total += self.joint * victim * _matern(a.pressure * scale, b.pressure * scale, self.length) * near
        if self.per_resource:
            for g in groups:
                victim = _matern(a.sensitivity[:, g], b.sensitivity[:, g], self.length)
                total += self.per_resource * victim * _matern(a.pressure[:, g], b.pressure[:, g], self.length) * near
        if self.products:
            total += self.products * product_features(a) @ product_features(b).T
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


def _squared_distance(a: Array, b: Array) -> Array:
    square = (a * a).sum(axis=1)[:, None] + (b * b).sum(axis=1)[None]
    return np.asarray(np.maximum(square - 2.0 * a @ b.T, 0.0))


def _matern(a: Array, b: Array, length: float) -> Array:
    """Matern 5/2 (Rasmussen and Williams 2006, eq. 4.17) between the rows of a and b."""
    d = np.sqrt(5.0 * _squared_distance(a, b)) / length
    return np.asarray((1.0 + d + d * d / 3.0) * np.exp(-d))


MEMBERS: tuple[Structure, ...] = (
    Structure("per-resource", per_resource=0.01),
    Structure("mixed", per_resource=0.008, joint=0.004),
    Structure("joint", joint=0.02, neighbour_solo=0.0),
    Structure("products", products=2e-4),
    Structure("free per-resource", per_resource=0.05, probe_noise=5e-3),
    Structure("free joint", joint=0.1, neighbour_solo=0.0, probe_noise=5e-3),
)
