"""Predictions of one fit for profiles that join it: pairs are believed once, aside, and remembered.

One pair costs tens of milliseconds, which is nothing beside a measurement and too much for a loop that serves requests.
So what is not known yet is `wanted`; somebody works it out with `believe` where it is in nobody's way, and hands it
back to `learn`. Until then the answer is None, and whoever asked has another predictor.

A profile stands for itself (by identity): whoever measures again has a new object, and nothing old is answered.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from isolation.interference.fits import refusal
from isolation.interference.model import Basis, InterferenceModel, PairLogs, Prediction
from isolation.interference.rows import Colocation, Group, Pair
from partywall.domain.profiles import Profile, Resident

Side: TypeAlias = tuple[Profile, int]
"""A profile and its share in percent."""
_VICTIM, _NEIGHBOUR = "joined-victim", "joined-neighbour"
_FOR = frozenset({Group.PAIRS, Group.TRIPLES, Group.QUADS})
_MOST_KEPT = 100_000


@dataclass(frozen=True, slots=True)
class WantedPair:
    """A victim beside one neighbour, by profiles."""

    victim: Side
    neighbour: Side

    @property
    def key(self) -> tuple[int, int, int, int]:
        return id(self.victim[0]), self.victim[1], id(self.neighbour[0]), self.neighbour[1]


@dataclass(frozen=True, slots=True)
class PairBelief:
    """Mean and deviation of the log slowdown of `pair`."""

    pair: WantedPair
    mean: float
    deviation: float


@dataclass(slots=True)
class FittedModel:
    """Answers from what it has learned of pairs; `generation` grows with it."""

    model: InterferenceModel
    generation: int = 0
    _pairs: dict[tuple[int, int, int, int], PairBelief] = field(default_factory=dict)
    _wanted: dict[tuple[int, int, int, int], WantedPair] = field(default_factory=dict)
    _refusals: dict[int, tuple[Profile, str]] = field(default_factory=dict)

    def refusal(self, profile: Profile) -> str:
        """Why a profile cannot join; empty when it can."""
        held = self._refusals.get(id(profile))
        if held is None:
            held = self._refusals[id(profile)] = profile, refusal(self.model.atlas, profile)
        return held[1]

    def predict(self, row: Colocation, profiles: Mapping[str, Profile]) -> Prediction | None:
        """None where the fit does not speak of such a row or such profiles, or has not thought of it yet."""
        if row.group not in _FOR or any(self.refusal(profiles[n]) for n in row.names):
            return None
        ours = profiles[row.victim.name], row.victim.share_percent
        pairs = [WantedPair(ours, (profiles[n.name], n.share_percent)) for n in row.neighbours]
        missing = [p for p in pairs if p.key not in self._pairs]
        if missing:
            self._wanted.update((p.key, p) for p in missing)
            return None
        beliefs = [self._pairs[p.key] for p in pairs]
        if len(beliefs) == 1:
            return self._bounded(beliefs[0].mean, beliefs[0].deviation)
        logs = PairLogs({(row.victim, n): b.mean for n, b in zip(row.neighbours, beliefs, strict=True)})
        crowd = self.model.crowd
        crowd = replace(crowd, atlas=replace(crowd.atlas, profiles={n: profiles[n] for n in row.names}))
        return self._bounded(crowd.predict(row, logs), crowd.deviation)

    def wanted(self, most: int) -> Sequence[WantedPair]:
        """Pairs that were asked for and are not known, first come first."""
        return list(self._wanted.values())[:most]

    def believe(self, pairs: Sequence[WantedPair]) -> list[PairBelief]:
        """Works them out. Changes nothing here: it may run in a thread while others ask."""
        return [self._believe(p) for p in pairs]

    def learn(self, beliefs: Sequence[PairBelief]) -> None:
        """Remembers what was worked out."""
        if len(self._pairs) + len(beliefs) > _MOST_KEPT:
            self._pairs.clear()
            self._refusals.clear()
        for belief in beliefs:
            self._pairs[belief.pair.key] = belief
            self._wanted.pop(belief.pair.key, None)
        self.generation += bool(beliefs)

    def _believe(self, pair: WantedPair) -> PairBelief:
        # Each alone, so that an answer does not depend on what else was asked for.
        joined = self.model.joined({_VICTIM: pair.victim[0], _NEIGHBOUR: pair.neighbour[0]})
        row = Pair(Resident(_VICTIM, pair.victim[1]), Resident(_NEIGHBOUR, pair.neighbour[1]))
        belief = joined.pairs.predict([row])
        return PairBelief(pair, float(belief.mean[0]), float(belief.deviation[0]))

    def _bounded(self, mean: float, deviation: float) -> Prediction:
        upper = mean + self.model.bound.deviations * deviation
        slowdown = max(math.exp(mean), 1.0)
        return Prediction(slowdown, max(math.exp(upper), slowdown), deviation, Basis.FIT)
