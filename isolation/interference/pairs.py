"""Two models under caps: an ensemble of Gaussian processes over sensitivity and pressure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from isolation.interference.atlas import Atlas
from isolation.interference.gaussian import Belief, Conditioned, Index, condition, pool
from isolation.interference.kernels import MEMBERS, Structure
from isolation.interference.mixtures import Array
from isolation.interference.rows import Pair, PairRows, probe_pairs, tabulate
from partywall.domain.profiles import Profile

_TRUST = 0.9  # of the structural prior; what it leaves out goes to the constant
_SHARPNESS = 20.0  # a member 5 % worse in the inner validation keeps about a third of its weight


@dataclass(frozen=True, slots=True)
class PairStudy:
    """What does not depend on which co-runs are seen: rows and prior covariances over `pairs` and all probe runs."""

    atlas: Atlas
    structures: tuple[Structure, ...]
    pairs: tuple[Pair, ...]
    rows: PairRows
    covariances: tuple[Array, ...]

    @classmethod
    def of(cls, atlas: Atlas, pairs: Sequence[Pair], structures: tuple[Structure, ...] = MEMBERS) -> PairStudy:
        """Both names of every pair must stand in the atlas."""
        rows = tabulate(atlas, [*pairs, *probe_pairs(atlas)])
        covariances = tuple(s.covariance(rows, rows, atlas.probes) for s in structures)
        return cls(atlas, structures, tuple(pairs), rows, covariances)

    def fit(self, seen: Sequence[int]) -> PairModel:
        """Conditions on the co-runs at these places of `pairs` and on all probe runs."""
        train = np.concatenate([np.array(seen, dtype=np.int64), np.flatnonzero(self.rows.with_probe)])
        target, prior = self.rows.target[train], _TRUST * self.rows.prior[train]
        away = (target - prior)[: len(seen)] if seen else target - prior
        offset = float(away.mean())
        members = tuple(
            condition(c[np.ix_(train, train)], s.noises(self.rows)[train], prior + offset, target)
            for c, s in zip(self.covariances, self.structures, strict=True)
        )
        blocks = _model_blocks([self.pairs[i] for i in seen])
        return PairModel(self, train, len(seen), offset, members, _weights(members, blocks))


@dataclass(frozen=True, slots=True)
class Residuals:
    """Inner leave-one-model-out: the rows of one left-out model, what the rest believed, and what was measured."""

    left_out: str
    pairs: tuple[Pair, ...]
    belief: Belief
    measured: Array


class PairBeliefs(Protocol):
    """What believes in pairs: a fit, or one that models have joined."""

    def predict(self, pairs: Sequence[Pair]) -> Belief:
        """Belief over log slowdowns."""
        ...


@dataclass(frozen=True, slots=True)
class PairModel:
    """The fitted ensemble. `train` are places in the study's rows; the first `co_runs` of them are co-runs.

    `offset` is the constant that the training co-runs add to the structural prior.
    """

    study: PairStudy
    train: Index
    co_runs: int
    offset: float
    members: tuple[Conditioned, ...]
    weights: Array

    def predict(self, pairs: Sequence[Pair]) -> Belief:
        """Belief over the log slowdowns of any pairs of models of the atlas, seen or not, at any shares."""
        return pool(self.beliefs(tabulate(self.study.atlas, pairs)), self.weights)

    def beliefs(self, rows: PairRows) -> list[Belief]:
        """One per member."""
        seen = self.study.rows.take(self.train)
        beliefs = []
        for structure, member in zip(self.study.structures, self.members, strict=True):
            prior = structure.covariance(rows, rows, self.study.atlas.probes) + np.diag(structure.noises(rows))
            cross = structure.covariance(rows, seen, self.study.atlas.probes)
            beliefs.append(member.predict(_TRUST * rows.prior + self.offset, cross, prior))
        return beliefs

    def joined(self, profiles: Mapping[str, Profile]) -> JoinedPairs:
        """The same fit with further models, by their profiles alone."""
        atlas = self.study.atlas.joined(profiles)
        return JoinedPairs(replace(self, study=replace(self.study, atlas=atlas)), tuple(profiles))

    def inner(self) -> list[Residuals]:
        """What each seen model's rows look like to the rest: the only source of every learned uncertainty."""
        seen = [self.study.pairs[i] for i in self.train[: self.co_runs]]
        measured = self.study.rows.target[self.train]
        found = []
        for name, places in _model_blocks(seen).items():
            belief = pool([m.leave_out(places) for m in self.members], self.weights)
            found.append(Residuals(name, tuple(seen[i] for i in places), belief, measured[places]))
        return found


@dataclass(frozen=True, slots=True)
class JoinedPairs:
    """A fit and models that came after it: their probe runs are seen as the fit saw those of its own models.

    They are conditioned on where a pair is asked for, so that the fit itself is made once whoever joins.
    """

    base: PairModel
    names: tuple[str, ...]

    def predict(self, pairs: Sequence[Pair]) -> Belief:
        """As `PairModel.predict`."""
        asked = {n for p in pairs for n in p.names}
        atlas, count = self.base.study.atlas, len(pairs)
        runs = probe_pairs(atlas, [n for n in self.names if n in asked])
        rows = tabulate(atlas, [*pairs, *runs])
        beliefs = [_given(b, rows.target[count:], count) for b in self.base.beliefs(rows)]
        return pool(beliefs, self.base.weights)


def _given(belief: Belief, target: Array, count: int) -> Belief:
    """The first `count` rows once the others were measured (Rasmussen and Williams 2006, eq. A.6)."""
    cross, seen = belief.covariance[:count, count:], belief.covariance[count:, count:]
    gain = np.linalg.solve(seen, cross.T).T
    mean = belief.mean[:count] + gain @ (target - belief.mean[count:])
    return Belief(mean, belief.covariance[:count, :count] - gain @ cross.T)


def _model_blocks(pairs: Sequence[Pair]) -> dict[str, Index]:
    names = sorted({n for p in pairs for n in p.names})
    return {n: np.array([i for i, p in enumerate(pairs) if n in p.names], dtype=np.int64) for n in names}


def _weights(members: Sequence[Conditioned], blocks: dict[str, Index]) -> Array:
    """Exponential weights by the mean absolute error of the inner leave-one-model-out (stacking, shrunk to equal)."""
    if not blocks:
        return np.full(len(members), 1.0 / len(members))
    losses = []
    for member in members:
        errors = [np.abs(member.leave_out(b).mean - member.target[b]) for b in blocks.values()]
        losses.append(float(np.concatenate(errors).mean()))
    relative = np.array(losses) / min(losses) - 1.0
    weights = np.exp(-_SHARPNESS * relative)
    return np.asarray(weights / weights.sum())
