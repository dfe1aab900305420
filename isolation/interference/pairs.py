"""Two models under caps: an ensemble of Gaussian processes over sensitivity and pressure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from isolation.interference.atlas import Array, Atlas
from isolation.interference.gaussian import Belief, Conditioned, Index, Processes, pool, prepare
from isolation.interference.kernels import MEMBERS, Structure
from isolation.interference.rows import Pair, PairRows, tabulate

_SHARPNESS = 20.0  # a member 5 % worse in the inner validation keeps about a third of its weight


@dataclass(frozen=True, slots=True)
class PairStudy:
    """Everything that does not depend on which co-runs are seen: rows and prior covariances over them.

    `pairs` come first in the rows, in their order; probe runs follow and are always seen.
    """

    pairs: tuple[Pair, ...]
    rows: PairRows
    processes: Processes

    @classmethod
    def of(cls, atlas: Atlas, pairs: Sequence[Pair], members: Sequence[Structure] = MEMBERS) -> PairStudy:
        rows = tabulate(atlas, pairs)
        return cls(tuple(pairs), rows, prepare(rows, members, atlas.probes))

    def fit(self, seen: Sequence[int]) -> PairModel:
        """Conditions on the co-runs at these places of `pairs` and on all probe runs."""
        probe_rows = np.flatnonzero(self.rows.with_probe)
        train = np.concatenate([np.array(seen, dtype=np.int64), probe_rows])
        members = tuple(self.processes.condition(train, m) for m in range(len(self.processes.covariances)))
        blocks = _model_blocks([self.pairs[i] for i in seen])
        return PairModel(self, tuple(seen), members, _weights(members, blocks))


@dataclass(frozen=True, slots=True)
class Residuals:
    """Inner leave-one-model-out: places in `seen` of the rows of one left-out model, belief, and what was measured."""

    left_out: str
    places: Index
    belief: Belief
    measured: Array


@dataclass(frozen=True, slots=True)
class PairModel:
    """The fitted ensemble. Row numbers are places in the study's `pairs`."""

    study: PairStudy
    seen: tuple[int, ...]
    members: tuple[Conditioned, ...]
    weights: Array

    def predict(self, places: Sequence[int]) -> Belief:
        """Belief over the log slowdowns of these pairs, seen or not."""
        rows = np.array(places, dtype=np.int64)
        return pool([m.predict(rows) for m in self.members], self.weights)

    def inner(self) -> Iterator[Residuals]:
        """What each seen model's rows look like to the rest: the only source of every learned uncertainty."""
        blocks = _model_blocks([self.study.pairs[i] for i in self.seen])
        measured = self.study.rows.target[list(self.seen)]
        for name, places in blocks.items():
            belief = pool([m.leave_out(places) for m in self.members], self.weights)
            yield Residuals(name, places, belief, measured[places])


def _model_blocks(pairs: Sequence[Pair]) -> dict[str, Index]:
    names = sorted({n for p in pairs for n in p.names})
    return {n: np.array([i for i, p in enumerate(pairs) if n in p.names], dtype=np.int64) for n in names}


def _weights(members: Sequence[Conditioned], blocks: dict[str, Index]) -> Array:
    """Exponential weights by the mean absolute error of the inner leave-one-model-out (stacking, shrunk to equal)."""
    losses = []
    for member in members:
        target = member.target[member.train]
        errors = [np.abs(member.leave_out(b).mean - target[b]) for b in blocks.values() if len(b) < len(member.train)]
        losses.append(float(np.concatenate(errors).mean()) if errors else 1.0)
    relative = np.array(losses) / min(losses) - 1.0
    weights = np.exp(-_SHARPNESS * relative)
    return np.asarray(weights / weights.sum())
