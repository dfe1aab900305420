"""From profiles to slowdown: one model over pairs, uncapped pairs and crowds, with an upper bound."""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from isolation.interference.atlas import Atlas
from isolation.interference.bound import Bound
from isolation.interference.crowd import CrowdModel
from isolation.interference.observations import ResidualPrior
from isolation.interference.pairs import JoinedPairs, PairBeliefs, PairModel, PairStudy
from isolation.interference.rows import Colocation, Group, Pair
from isolation.interference.uncapped import UncappedModel
from partywall.domain.profiles import Profile, Resident
from partywall.errors import InvalidInput

_WIDE_DEVIATION = 0.5


class Basis(enum.StrEnum):
    """What a prediction rests on; a model whose prediction is a CONSTANT stays isolated until it is measured.

    FIT: co-runs of this type of device, and profiles. CO_RUNS: profiles, and what the fleet's own co-runs say of them.
    PROFILES: profiles alone.
    """

    FIT = "fit"
    CO_RUNS = "co-runs"
    PROFILES = "profiles"
    CONSTANT = "constant"


@dataclass(frozen=True, slots=True)
class Prediction:
    """Slowdown of the victim's mean latency, an upper bound, and the predictive deviation of its logarithm."""

    slowdown: float
    upper: float
    deviation: float
    basis: Basis

    @property
    def known(self) -> bool:
        """Whether it rests on measurements of everybody: the bound is finite."""
        return math.isfinite(self.upper)


class Predictor(Protocol):
    """What predicts; `InterferenceModel` and `direct.DirectModel` do."""

    def predict(self, rows: Sequence[Colocation]) -> list[Prediction]:
        """One prediction per row, in order."""
        ...


@dataclass(frozen=True, slots=True)
class Study:
    """Co-runs and the covariances between their pairs, computed once and conditioned on any part of them."""

    atlas: Atlas
    rows: tuple[Colocation, ...]
    pairs: PairStudy
    place: Mapping[int, int]

    @classmethod
    def of(cls, atlas: Atlas, rows: Sequence[Colocation], learnable: int | None = None) -> Study:
        """Only the first `learnable` rows can be learned from later (all by default); the others are to be judged."""
        known = frozenset(atlas.names)
        places = [i for i, r in enumerate(rows[:learnable]) if r.group is Group.PAIRS and r.names <= known]
        study = PairStudy.of(atlas, [rows[i].pair for i in places])
        return cls(atlas, tuple(rows), study, {row: k for k, row in enumerate(places)})

    def fit(self, seen: Sequence[int]) -> InterferenceModel:
        """Learns from the rows at these places alone; profiles of all models stand in the atlas."""
        rows = [self.rows[i] for i in seen]
        known = frozenset(self.atlas.names)
        pairs = self.pairs.fit([self.place[i] for i in seen if i in self.place])
        inner = pairs.inner()
        uncapped = [r.pair for r in rows if r.group is Group.UNCAPPED and r.names <= known]
        crowds = [r for r in rows if r.group in (Group.TRIPLES, Group.QUADS) and r.names <= known]
        return InterferenceModel(
            atlas=self.atlas,
            pairs=pairs,
            uncapped=UncappedModel.fit(self.atlas, uncapped),
            crowd=CrowdModel.fit(self.atlas, crowds, _pair_logs(pairs, crowds)),
            bound=Bound.calibrate(inner),
            residual_prior=ResidualPrior.learn(inner),
            constants=_constants(rows),
        )


@dataclass(frozen=True, slots=True)
class InterferenceModel:
    """The fitted parts. `constants` are mean log slowdowns by group, the answer where profiles are missing."""

    atlas: Atlas
    pairs: PairModel | JoinedPairs
    uncapped: UncappedModel | None
    crowd: CrowdModel
    bound: Bound
    residual_prior: ResidualPrior
    constants: Mapping[Group, float]

    def joined(self, profiles: Mapping[str, Profile]) -> InterferenceModel:
        """This fit with further models, by their profiles alone; `atlas.covers` must hold for each.

        Raises:
            InvalidInput: A name stands in the fit already, or models have joined before.
        """
        if not profiles:
            return self
        taken = profiles.keys() & set(self.atlas.names)
        if taken or not isinstance(self.pairs, PairModel):
            raise InvalidInput(f"a fit is joined once, by new names; taken: {sorted(taken)}")
        pairs = self.pairs.joined(profiles)
        atlas = pairs.base.study.atlas
        return replace(self, atlas=atlas, pairs=pairs, crowd=replace(self.crowd, atlas=atlas))

    def predict(self, rows: Sequence[Colocation]) -> list[Prediction]:
        """One prediction per row, whatever its kind. Needs no measurement of the row itself."""
        found: dict[int, Prediction] = {}
        known = frozenset(self.atlas.names)
        pairs = [i for i, r in enumerate(rows) if _is_capped_pair(r) and r.names <= known]
        if pairs:
            belief = self.pairs.predict([rows[i].pair for i in pairs])
            for i, mean, deviation in zip(pairs, belief.mean, belief.deviation, strict=True):
                found[i] = self._prediction(float(mean), float(deviation))
        crowds = [i for i, r in enumerate(rows) if len(r.neighbours) > 1 and r.names <= known]
        logs = _pair_logs(self.pairs, [rows[i] for i in crowds])
        for i in crowds:
            found[i] = self._prediction(self.crowd.predict(rows[i], logs), self.crowd.deviation)
        return [found.get(i) or self._other(r) for i, r in enumerate(rows)]

    def _other(self, row: Colocation) -> Prediction:
        if self.uncapped is not None and len(row.neighbours) == 1 and row.names <= frozenset(self.atlas.names):
            mean = self.uncapped.predict(row.victim.name, row.neighbours[0].name)
            if np.isfinite(mean):
                return self._prediction(mean, self.uncapped.deviation)
        mean = self.constants.get(row.group or Group.PAIRS, self.constants.get(Group.PAIRS, 0.0))
        return Prediction(float(np.exp(mean)), float("inf"), _WIDE_DEVIATION, Basis.CONSTANT)

    def _prediction(self, mean: float, deviation: float) -> Prediction:
        upper = mean + self.bound.deviations * deviation
        return Prediction(max(float(np.exp(mean)), 1.0), float(np.exp(upper)), deviation, Basis.PROFILES)


def _is_capped_pair(row: Colocation) -> bool:
    return len(row.neighbours) == 1 and row.group is not Group.UNCAPPED


def _pair_logs(pairs: PairBeliefs, crowds: Sequence[Colocation]) -> PairLogs:
    wanted = tuple(dict.fromkeys((c.victim, n) for c in crowds for n in c.neighbours))
    if not wanted:
        return PairLogs({})
    means = pairs.predict([Pair(v, n) for v, n in wanted]).mean
    return PairLogs({k: float(m) for k, m in zip(wanted, means, strict=True)})


@dataclass(frozen=True, slots=True)
class PairLogs:
    """log slowdowns of a victim beside one neighbour, looked up."""

    values: Mapping[tuple[Resident, Resident], float]

    def __call__(self, victim: Resident, neighbour: Resident) -> float:
        return self.values[victim, neighbour]


def _constants(rows: Sequence[Colocation]) -> dict[Group, float]:
    logs: dict[Group, list[float]] = {}
    for row in rows:
        if row.group is not None:
            logs.setdefault(row.group, []).append(float(np.log(row.slowdown)))
    return {g: float(np.mean(v)) for g, v in logs.items()}
