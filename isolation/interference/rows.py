"""Pairs as arrays: one row per victim beside one neighbour, with the features that the kernels read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from isolation.interference.atlas import Array, Atlas, Shares
from partywall.domain.profiles import Resident


@dataclass(frozen=True, slots=True)
class Pair:
    """A victim beside one neighbour; `slowdown` nan: to be predicted."""

    victim: Resident
    neighbour: Resident
    slowdown: float = float("nan")

    @property
    def names(self) -> frozenset[str]:
        return frozenset((self.victim.name, self.neighbour.name))

    @property
    def shares(self) -> Shares:
        return self.victim.share_percent, self.neighbour.share_percent


@dataclass(frozen=True, slots=True)
class PairRows:
    """Columns over n rows. Sensitivities, pressures and target are logarithms of slowdowns.

    `victim_run` and `neighbour_run` number the solo run that each side's curve is divided by: rows that share one share
    its error. `with_probe` marks rows of the probe session.
    """

    sensitivity: Array
    pressure: Array
    shares: Array
    victim_session: Array
    neighbour_session: Array
    victim_busy: Array
    neighbour_dram: Array
    victim_run: NDArray[np.int64]
    neighbour_run: NDArray[np.int64]
    with_probe: NDArray[np.bool_]
    target: Array


def tabulate(atlas: Atlas, pairs: Sequence[Pair]) -> PairRows:
    """Rows for pairs of models that stand in the atlas, followed by every probe run of the atlas.

    The probe rows come last: first models beside probes, then probes beside models.
    """
    rows = [*pairs, *_probe_pairs(atlas)]
    weights = np.array([atlas.weights(r.shares) for r in rows])
    victim = np.array([atlas.index(r.victim.name) for r in rows])
    neighbour = np.array([atlas.index(r.neighbour.name) for r in rows])
    with_probe = np.arange(len(rows)) >= len(pairs)
    ours = np.where(with_probe, 0.0, 1.0)
    return PairRows(
        sensitivity=np.einsum("nc,ncr->nr", weights, atlas.sensitivity[victim]),
        pressure=np.einsum("nc,ncr->nr", weights, atlas.pressure[neighbour]),
        shares=np.array([r.shares for r in rows]) / 100.0,
        victim_session=ours * np.array([atlas.session_offset(r.victim) for r in rows]),
        neighbour_session=ours * np.array([atlas.session_offset(r.neighbour) for r in rows]),
        victim_busy=np.array([atlas.busy(r.victim) for r in rows]),
        neighbour_dram=np.array([atlas.dram(r.neighbour) for r in rows]),
        victim_run=_number([r.victim for r in rows], with_probe),
        neighbour_run=_number([r.neighbour for r in rows], with_probe),
        with_probe=with_probe,
        target=np.log(np.array([r.slowdown for r in rows])),
    )


def _probe_pairs(atlas: Atlas) -> list[Pair]:
    """What the atlas itself measured, as training rows. Without the probes' own curves there is nothing to say."""
    if len(atlas.names) == atlas.models:
        return []
    found = []
    for m in range(atlas.models):
        for c, (a, b) in enumerate(atlas.grid):
            for r, probe in enumerate(atlas.probes):
                beside = float(np.exp(atlas.sensitivity[m, c, r]))
                found.append(Pair(Resident(atlas.names[m], a), Resident(probe.name, b), beside))
    for m in range(atlas.models):
        for c, (a, b) in enumerate(atlas.grid):
            for r, probe in enumerate(atlas.probes):
                pressed = float(np.exp(atlas.pressure[m, c, r]))
                found.append(Pair(Resident(probe.name, a), Resident(atlas.names[m], b), pressed))
    return found


def _number(residents: Sequence[Resident], with_probe: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Numbers the solo runs; the probe session measured its own."""
    keys = [(r, bool(p)) for r, p in zip(residents, with_probe, strict=True)]
    places = {k: i for i, k in enumerate(dict.fromkeys(keys))}
    return np.array([places[k] for k in keys], dtype=np.int64)
