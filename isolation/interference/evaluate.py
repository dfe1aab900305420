"""Errors of every predictor, coverage of the bound and its decision errors, on models or pairs never seen together."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from isolation.interference.baselines.linear import Baseline, Constant, Gpulet, NoInterference
from isolation.interference.gaussian import Belief
from isolation.interference.mixtures import Array
from isolation.interference.model import InterferenceModel
from isolation.interference.observations import by_ordered_pair
from isolation.interference.rows import Colocation, Group
from isolation.interference.splits import Fold, Trial

OBJECTIVES = (1.25, 1.5, 2.0)
LIVE_OBSERVATIONS = (1, 2, 4)
_DRAWS = 20


class Predictor(enum.StrEnum):
    NONE = "none"
    CONSTANT = "constant"
    GPULET = "gpulet"
    PARTYWALL = "partywall"
    PARTYWALL_1 = "partywall+1"
    PARTYWALL_2 = "partywall+2"
    PARTYWALL_4 = "partywall+4"


_LIVE = {1: Predictor.PARTYWALL_1, 2: Predictor.PARTYWALL_2, 4: Predictor.PARTYWALL_4}


@dataclass(frozen=True, slots=True)
class Judged:
    """One judged row with every prediction made for it. `held_out` are the held-out models of its run."""

    row: Colocation
    held_out: tuple[str, ...]
    predicted: Mapping[Predictor, float]
    upper: float

    @property
    def group(self) -> Group:
        group = self.row.group
        assert group is not None, "only rows of a group are judged"  # noqa: S101
        return group

    def error(self, predictor: Predictor) -> float:
        return abs(self.predicted[predictor] - self.row.slowdown) / self.row.slowdown


@dataclass(frozen=True, slots=True)
class Errors:
    """Quantiles of the absolute relative error, as fractions."""

    p50: float
    p90: float
    p95: float
    max: float
    n: int

    @classmethod
    def of(cls, errors: Sequence[float]) -> Errors | None:
        if not len(errors):
            return None
        p50, p90, p95, worst = np.quantile(np.array(errors), [0.5, 0.9, 0.95, 1.0])
        return cls(float(p50), float(p90), float(p95), float(worst), len(errors))

    @classmethod
    def mean(cls, draws: Sequence[Errors]) -> Errors | None:
        if not draws:
            return None
        columns = np.array([[d.p50, d.p90, d.p95, d.max, d.n] for d in draws]).mean(axis=0)
        p50, p90, p95, worst, n = (float(c) for c in columns)
        return cls(p50, p90, p95, worst, round(n))


@dataclass(frozen=True, slots=True)
class BoundQuality:
    """Coverage of the upper bound and its decision errors by objective (in multiples of solo), as fractions of rows."""

    coverage: float
    by_model: Mapping[str, float]
    false_safe: Mapping[float, float]
    false_refuse: Mapping[float, float]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What `partywall interference evaluate` reports. An absent group is None."""

    groups: Mapping[Group, Mapping[Predictor, Errors | None] | None]
    bound: BoundQuality | None
    judged: tuple[Judged, ...]


def evaluate(trial: Trial, seed: int = 0) -> Evaluation:
    """Fits each fold on its seen rows alone and judges the others; the seed draws the live observations."""
    judged: list[Judged] = []
    live: dict[int, list[list[float]]] = {k: [[] for _ in range(_DRAWS)] for k in LIVE_OBSERVATIONS}
    rng = np.random.default_rng(seed)
    for fold in trial.folds:
        model = trial.study.fit(fold.seen)
        judged += _judge(trial, fold, model)
        _observe(trial, fold, model, rng, live)
    groups = {g: _errors([j for j in judged if j.group is g], live if g is Group.PAIRS else None) for g in Group}
    pairs = [j for j in judged if j.group is Group.PAIRS]
    return Evaluation(groups, _bound(pairs) if pairs else None, tuple(judged))


def _judge(trial: Trial, fold: Fold, model: InterferenceModel) -> list[Judged]:
    seen = [trial.study.rows[i] for i in fold.seen if trial.study.rows[i].group is not None]
    rows = [trial.study.rows[i] for i in fold.judged]
    baselines: dict[Predictor, Baseline] = {
        Predictor.NONE: NoInterference(),
        Predictor.CONSTANT: Constant.fit(seen),
        Predictor.GPULET: Gpulet.fit(trial.study.atlas, seen),
    }
    tables = {p: b.predict(rows) for p, b in baselines.items()}
    ours = model.predict(rows)
    found = []
    for i, row in enumerate(rows):
        predicted = {p: float(t[i]) for p, t in tables.items()}
        predicted |= dict.fromkeys((Predictor.PARTYWALL, *_LIVE.values()), ours[i].slowdown)
        held_out = tuple("+".join(sorted(out)) for out in fold.held_out if out <= row.names)
        found.append(Judged(row, held_out, predicted, ours[i].upper))
    return found


def _observe(
    trial: Trial, fold: Fold, model: InterferenceModel, rng: np.random.Generator, live: Mapping[int, list[list[float]]]
) -> None:
    """Adds the errors of the pairs' rows that were not drawn as observations, draw by draw."""
    rows = [trial.study.rows[i] for i in fold.judged if trial.study.rows[i].group is Group.PAIRS]
    known = frozenset(trial.study.atlas.names)
    pairs = [r.pair for r in rows if r.names <= known]
    if not pairs:
        return
    belief = model.pairs.predict(pairs)
    measured = np.log(np.array([p.slowdown for p in pairs]))
    for places in by_ordered_pair(pairs).values():
        own = Belief(belief.mean[places], belief.covariance[np.ix_(places, places)])
        own_pairs, own_measured = [pairs[i] for i in places], measured[places]
        for count, draws in live.items():
            for errors in draws if len(places) > count else ():
                drawn = sorted(rng.choice(len(places), count, replace=False).tolist())
                rest = [i for i in range(len(places)) if i not in drawn]
                mean = model.residual_prior.corrected(own_pairs, own, drawn, own_measured[drawn])
                errors += _relative(mean[rest], own_measured[rest])


def _relative(mean: Array, measured: Array) -> list[float]:
    predicted = np.maximum(np.exp(mean), 1.0)
    return [float(e) for e in np.abs(predicted / np.exp(measured) - 1.0)]


def _errors(
    judged: Sequence[Judged], live: Mapping[int, list[list[float]]] | None
) -> dict[Predictor, Errors | None] | None:
    if not judged:
        return None
    found = {p: Errors.of([j.error(p) for j in judged]) for p in Predictor}
    for count, draws in (live or {}).items():
        found[_LIVE[count]] = Errors.mean([e for e in map(Errors.of, draws) if e is not None])
    return found


def _bound(judged: Sequence[Judged]) -> BoundQuality:
    actual = np.array([j.row.slowdown for j in judged])
    upper = np.array([j.upper for j in judged])
    covered = actual <= upper
    names = sorted({n for j in judged for n in j.held_out})
    return BoundQuality(
        coverage=float(covered.mean()),
        by_model={
            n: float(np.mean([c for c, j in zip(covered, judged, strict=True) if n in j.held_out])) for n in names
        },
        false_safe={o: float(np.mean((upper <= o) & (actual > o))) for o in OBJECTIVES},
        false_refuse={o: float(np.mean((upper > o) & (actual <= o))) for o in OBJECTIVES},
    )
