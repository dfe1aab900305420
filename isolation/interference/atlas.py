"""Sensitivity and pressure curves of models and of the probes themselves, on one common grid.

A point of the grid is a pair of shares (victim's, neighbour's). Values are natural logarithms of slowdowns. Probes
stand in the atlas beside the models because a probe beside a model is a neighbour (and a victim) like any other: such
runs teach the predictor about pressures that no model of the training set exerts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from isolation.interference.mixtures import BLENDS, Array, fit_blends
from partywall.domain.profiles import Counters, ProbePoint, ProbeSetting, Profile, Resident

Shares: TypeAlias = tuple[int, int]

_SELF_RIDGE = 0.02  # squared log slowdowns: a few percent of noise on each of about ten rows
_SHARE_RIDGE = 1e-3
_MIN_KNOWN = 0.5
MIN_COVERED = 0.9
"""Of the points of a fit; the probes of a model that joins later are those of the fit, or it does not join."""
_TYPICAL_BUSY = 0.7
_TYPICAL_DRAM = 0.15


@dataclass(frozen=True, slots=True)
class Atlas:
    """Curves of `names` (models, then probes): `sensitivity` and `pressure` are (names, grid, probes).

    `sensitivity[i, (a, b), r]`: i at share a beside probe r at share b. `pressure[i, (a, b), r]`: probe r at share a
    beside i at share b. So both are read at the same grid point for a victim at a beside a neighbour at b. `blends`
    (ways, names, grid, probes) are the probes that each neighbour resembles; zero without the probes' own runs.
    """

    names: tuple[str, ...]
    models: int
    grid: tuple[Shares, ...]
    probes: tuple[ProbeSetting, ...]
    sensitivity: Array
    pressure: Array
    blends: Array
    profiles: Mapping[str, Profile]

    @property
    def is_probe(self) -> NDArray[np.bool_]:
        """Which of `names` are probes, (names,)."""
        probes = {p.name for p in self.probes}
        return np.array([n in probes for n in self.names], dtype=np.bool_)

    def joined(self, profiles: Mapping[str, Profile]) -> Atlas:
        """With further models, whose names stand last. `covers` must hold for each, and none may stand here.

        Nothing of what stood here changes: the models of before, and the probes' own curves, are as they were.
        """
        curves = [_curves(p, self.grid, self.probes) for p in profiles.values()]
        if not curves:
            return self
        known = slice(0, self.models)
        sensitivity = np.array([_filled(s, self.sensitivity[known]) for s, _ in curves])
        pressure = np.array([_filled(p, self.pressure[known]) for _, p in curves])
        blends = fit_blends(self.sensitivity[self.is_probe], pressure, [b for _, b in self.grid])
        return replace(
            self,
            names=self.names + tuple(profiles),
            sensitivity=np.concatenate([self.sensitivity, sensitivity]),
            pressure=np.concatenate([self.pressure, pressure]),
            blends=np.concatenate([self.blends, blends], axis=1),
            profiles={**self.profiles, **profiles},
        )

    def covers(self, profile: Profile) -> bool:
        """Whether enough of a profile's curves lie on this grid to stand here."""
        curves = _curves(profile, self.grid, self.probes)
        return all(float(np.isfinite(c).mean()) >= MIN_COVERED for c in curves)

    def index(self, name: str) -> int:
        return self.names.index(name)

    def weights(self, shares: Shares) -> Array:
        """Interpolation weights over the grid: one at a grid point, inverse squared distance elsewhere."""
        distance = np.array([(a - shares[0]) ** 2 + (b - shares[1]) ** 2 for a, b in self.grid], dtype=float)
        if distance.min() == 0:
            return np.asarray(distance == 0, dtype=np.float64)
        inverse = 1.0 / distance**1.5
        return np.asarray(inverse / inverse.sum(), dtype=np.float64)

    def session(self, resident: Resident) -> tuple[float, float]:
        """log(solo among the models / solo among the probes): its mean over the shares, and the rest at this share.

        The mean is the launch path (more processes on the device make every launch slower), and a model with much of it
        suffers in co-runs too. The rest is the error of one solo run, which every slowdown divided by it inherits.
        """
        profile = self.profiles.get(resident.name)
        if profile is None:
            return 0.0, 0.0
        both = sorted(profile.solo_ms.keys() & profile.beside_probes_ms.keys())
        if not both:
            return 0.0, 0.0
        offset = {s: float(np.log(profile.solo_ms[s] / profile.beside_probes_ms[s])) for s in both}
        mean = float(np.mean(list(offset.values())))
        return mean, offset.get(resident.share_percent, mean) - mean

    def busy(self, resident: Resident) -> float:
        """How far the share's units are busy alone, around a typical model; launch-bound models leave gaps."""
        counters = self.counters(resident)
        return counters.sm_util / resident.share_percent - _TYPICAL_BUSY if counters else 0.0

    def dram(self, resident: Resident) -> float:
        """DRAM bandwidth alone as a fraction of the peak, around a typical model."""
        counters = self.counters(resident)
        return counters.dram_bw / 100 - _TYPICAL_DRAM if counters else 0.0

    def starved(self, victim: Resident, neighbour: Resident) -> float:
        """The victim's gaps x the neighbour's DRAM bandwidth, as fractions: small kernels wait for memory."""
        ours, theirs = self.counters(victim), self.counters(neighbour)
        if ours is None or theirs is None:
            return 0.0
        return (1.0 - ours.sm_util / victim.share_percent) * theirs.dram_bw / 100

    def counters(self, resident: Resident) -> Counters | None:
        """Counters at the nearest measured share; None where the device or the profile has none."""
        profile = self.profiles.get(resident.name)
        if profile is None or not profile.counters:
            return None
        return profile.counters[min(profile.counters, key=lambda s: abs(s - resident.share_percent))]


def build(profiles: Mapping[str, Profile], probe_table: Mapping[tuple[Resident, Resident], float]) -> Atlas:
    """Lays the probed profiles and the probes on the grid that the profiles were measured on.

    Points that nobody measured are completed: a model's from the other models' mean; a probe beside itself by a ridge
    on its slowdown beside the other probes; probes at shares that were not tried by a ridge on the shares that were.
    Only solo and probe runs are read, never a co-run of two models.
    """
    probed = {k: p for k, p in profiles.items() if p.probed}
    points = {pt for p in probed.values() for pt in p.sensitivity}
    probes = tuple(sorted({pt.probe for pt in points}))
    grid = tuple(sorted({(pt.own_percent, pt.probe_percent) for pt in points}))
    names = tuple(probed)
    known = [_curves(p, grid, probes) for p in probed.values()]
    model_s = np.array([k[0] for k in known]).reshape(len(names), len(grid), len(probes))
    model_p = np.array([k[1] for k in known]).reshape(len(names), len(grid), len(probes))
    enough = [bool(np.isfinite(s).mean() >= _MIN_KNOWN and np.isfinite(p).mean() >= _MIN_KNOWN) for s, p in known]
    names = tuple(n for n, e in zip(names, enough, strict=True) if e)
    model_s, model_p = _fill(model_s[enough]), _fill(model_p[enough])
    table = _probe_table(probe_table, grid, probes)
    probe_s = _complete_probes(table, model_s, model_p)
    if probe_s is None:
        nothing = np.zeros((len(BLENDS), *model_p.shape))
        return Atlas(names, len(names), grid, probes, model_s, model_p, nothing, profiles)
    pressure = np.concatenate([model_p, np.transpose(probe_s, (2, 1, 0))])
    return Atlas(
        names + tuple(p.name for p in probes),
        len(names),
        grid,
        probes,
        np.concatenate([model_s, probe_s]),
        pressure,
        fit_blends(probe_s, pressure, [b for _, b in grid]),
        profiles,
    )


def _curves(profile: Profile, grid: Sequence[Shares], probes: Sequence[ProbeSetting]) -> tuple[Array, Array]:
    nan = float("nan")
    sensitivity = [[profile.sensitivity.get(ProbePoint(r, a, b), nan) for r in probes] for a, b in grid]
    pressure = [[profile.pressure.get(ProbePoint(r, b, a), nan) for r in probes] for a, b in grid]
    return np.log(np.array(sensitivity)), np.log(np.array(pressure))


def _filled(curves: Array, others: Array) -> Array:
    """One model's curves; points that nobody measured take the mean of `others` (models, grid, probes)."""
    return np.where(np.isnan(curves), others.mean(axis=0), curves)


def _fill(curves: Array) -> Array:
    """Missing points take the mean of the models that have them."""
    if not np.isnan(curves).any():
        return curves
    count = np.maximum(np.isfinite(curves).sum(axis=0), 1)
    mean = np.nansum(curves, axis=0) / count
    return np.where(np.isnan(curves), mean[None], curves)


def _probe_table(
    measured: Mapping[tuple[Resident, Resident], float], grid: Sequence[Shares], probes: Sequence[ProbeSetting]
) -> Array:
    """log slowdown of probe v beside probe n: (v, grid, n), nan where it was not measured."""
    table = np.full((len(probes), len(grid), len(probes)), np.nan)
    place = {p.name: i for i, p in enumerate(probes)}
    column = {shares: c for c, shares in enumerate(grid)}
    for (victim, neighbour), slowdown in measured.items():
        c = column.get((victim.share_percent, neighbour.share_percent))
        if c is not None and victim.name in place and neighbour.name in place:
            table[place[victim.name], c, place[neighbour.name]] = np.log(slowdown)
    return table


def _complete_probes(table: Array, model_s: Array, model_p: Array) -> Array | None:
    """Fills the probes' own table; None when too little of it was measured to lean on."""
    count = table.shape[0]
    off_diagonal = ~np.eye(count, dtype=bool)
    tried = [c for c in range(table.shape[1]) if np.isfinite(table[:, c][off_diagonal]).all()]
    if count < 3 or not tried or len(model_s) < 3:
        return None
    full = table.copy()
    for c in tried:
        for q in range(count):
            others = [k for k in range(count) if k != q]
            x, y = model_s[:, c][:, others], model_s[:, c, q]
            w = np.linalg.solve(x.T @ x + _SELF_RIDGE * np.eye(count - 1), x.T @ y)
            full[q, c, q] = full[q, c, others] @ w
    both = np.concatenate([model_s.transpose(0, 2, 1), model_p.transpose(0, 2, 1)]).reshape(-1, table.shape[1])
    x = both[:, tried]
    for c in set(range(table.shape[1])) - set(tried):
        w = np.linalg.solve(x.T @ x + _SHARE_RIDGE * np.eye(len(tried)), x.T @ both[:, c])
        full[:, c, :] = np.tensordot(full[:, tried, :], w, axes=([1], [0]))
    return full
