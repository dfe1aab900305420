"""Pairs as arrays: one row per victim beside one neighbour, with the features that the kernels read."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from isolation.interference.atlas import Atlas, Shares
from isolation.interference.mixtures import Array, believe
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
class Colocation:
    """A victim beside one or more neighbours; `slowdown` nan: to be predicted."""

    victim: Resident
    neighbours: tuple[Resident, ...]
    slowdown: float = float("nan")

    @property
    def names(self) -> frozenset[str]:
        return frozenset((self.victim.name, *(n.name for n in self.neighbours)))

    @property
    def group(self) -> Group | None:
        """By partners and shares; None: a kind of run that nothing is promised for."""
        shares = [self.victim.share_percent, *(n.share_percent for n in self.neighbours)]
        if len(shares) == 2 and min(shares) == FULL_PERCENT:
            return Group.UNCAPPED
        return _BY_PARTNERS.get(len(shares)) if sum(shares) <= FULL_PERCENT else None

    @property
    def pair(self) -> Pair:
        """The same as a pair; ValueError with more than one neighbour."""
        (neighbour,) = self.neighbours
        return Pair(self.victim, neighbour, self.slowdown)


class Group(enum.StrEnum):
    """Kinds of co-runs: two to four partners under caps, and two without."""

    PAIRS = "pairs"
    UNCAPPED = "uncapped"
    TRIPLES = "triples"
    QUADS = "quads"


FULL_PERCENT = 100
_BY_PARTNERS = {2: Group.PAIRS, 3: Group.TRIPLES, 4: Group.QUADS}


@dataclass(frozen=True, slots=True)
class PairRows:
    """Columns over n rows. Sensitivities, pressures and target are logarithms of slowdowns.

    `session` (rows, 4) has each side's launch-path difference between the sessions, and how far its solo run at this
    very share deviates from it. `victim_run` and `neighbour_run` number the solo run that each side's curve is divided
    by: rows that share one share its error. `with_probe` marks rows of the probe session.
    """

    sensitivity: Array
    pressure: Array
    prior: Array
    shares: Array
    session: Array
    victim_busy: Array
    neighbour_dram: Array
    starved: Array
    victim_run: NDArray[np.int64]
    neighbour_run: NDArray[np.int64]
    with_probe: NDArray[np.bool_]
    target: Array

    def take(self, places: NDArray[np.int64]) -> PairRows:
        """These rows alone, in this order."""
        return PairRows(**{f.name: getattr(self, f.name)[places] for f in fields(self)})


def tabulate(atlas: Atlas, pairs: Sequence[Pair]) -> PairRows:
    """One row per pair, in order. Both names of every pair must stand in the atlas."""
    weights = np.array([atlas.weights(p.shares) for p in pairs]).reshape(len(pairs), len(atlas.grid))
    place = {name: i for i, name in enumerate(atlas.names)}
    victim = np.array([place[p.victim.name] for p in pairs], dtype=np.int64)
    neighbour = np.array([place[p.neighbour.name] for p in pairs], dtype=np.int64)
    probe = atlas.is_probe
    with_probe = probe[victim] | probe[neighbour]
    session = np.array([[*atlas.session(p.victim), *atlas.session(p.neighbour)] for p in pairs]).reshape(len(pairs), 4)
    session = np.where(with_probe[:, None], 0.0, session)
    sensitivity = np.einsum("nc,ncr->nr", weights, atlas.sensitivity[victim])
    blends = np.einsum("nc,wncr->wnr", weights, atlas.blends[:, neighbour])
    shares = np.array([p.shares for p in pairs], dtype=np.int64).reshape(len(pairs), 2)
    return PairRows(
        sensitivity=sensitivity,
        pressure=np.einsum("nc,ncr->nr", weights, atlas.pressure[neighbour]),
        prior=believe(blends, sensitivity),
        shares=shares / 100.0,
        session=session,
        victim_busy=np.array([atlas.busy(p.victim) for p in pairs]),
        neighbour_dram=np.array([atlas.dram(p.neighbour) for p in pairs]),
        starved=np.where(with_probe, 0.0, np.array([atlas.starved(p.victim, p.neighbour) for p in pairs])),
        victim_run=_solo_run(victim, shares[:, 0], with_probe),
        neighbour_run=_solo_run(neighbour, shares[:, 1], with_probe),
        with_probe=with_probe,
        target=np.log(np.array([p.slowdown for p in pairs])),
    )


def probe_pairs(atlas: Atlas, names: Sequence[str] | None = None) -> list[Pair]:
    """The probe runs of all models, or of these, as pairs: models beside probes, then probes beside models.

    Without the probes' own curves a probe has no place in the atlas, and there is nothing to say.
    """
    if len(atlas.names) == atlas.models:
        return []
    beside, pressed = [], []
    for name in atlas.names[: atlas.models] if names is None else names:
        m = atlas.index(name)
        for c, (a, b) in enumerate(atlas.grid):
            for r, probe in enumerate(atlas.probes):
                sensitivity = float(np.exp(atlas.sensitivity[m, c, r]))
                pressure = float(np.exp(atlas.pressure[m, c, r]))
                beside.append(Pair(Resident(name, a), Resident(probe.name, b), sensitivity))
                pressed.append(Pair(Resident(probe.name, a), Resident(name, b), pressure))
    return beside + pressed


def _solo_run(side: NDArray[np.int64], share: NDArray[np.int64], with_probe: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Numbers the solo runs; the probe session measured its own."""
    return (side * 1000 + share) * 2 + with_probe
