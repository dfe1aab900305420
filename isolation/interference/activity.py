"""Neighbours that are busy only part of the time: the mean and the tail over who is busy at once.

A neighbour busy a fraction u of the time is beside a batch with probability u; sets of busy neighbours mix (at most
2^k of them). The mean of that mixture is not the slowdown at mean load, and its tail is the slowdown beside those who
are busy together often enough to matter. Holds while a batch is short against a neighbour's busy and idle stretches;
longer batches see averages, and the tail here is then too high, never too low.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

import numpy as np

from isolation.interference.mixtures import Array
from isolation.interference.model import Basis, Prediction, Predictor
from isolation.interference.rows import Colocation
from partywall.domain.profiles import Resident
from partywall.errors import InvalidInput

MAX_NEIGHBOURS = 6
_UNKNOWN, _DEVIATIONS, _LEAST = 0.5, 2.0, 1e-3
_ALONE = Prediction(1.0, 1.0, 0.0, Basis.PROFILES)


@dataclass(frozen=True, slots=True)
class ActivePrediction:
    """Mean slowdown, its quantile over batches, and the bounds on both."""

    mean: float
    mean_upper: float
    tail: float
    tail_upper: float
    basis: Basis = Basis.PROFILES
    """The weakest of those that the sets of busy neighbours rest on."""


def predict_active(
    model: Predictor, victim: Resident, busy: Mapping[Resident, float], quantile: float = 0.99
) -> ActivePrediction:
    """`busy` gives each neighbour's fraction of time busy.

    Raises:
        InvalidInput: More than six neighbours, or a fraction or quantile outside 0 to 1.
    """
    if len(busy) > MAX_NEIGHBOURS or not all(0 <= u <= 1 for u in (*busy.values(), quantile)):
        raise InvalidInput(f"busy must hold at most {MAX_NEIGHBOURS} neighbours with fractions from 0 to 1, got {busy}")
    neighbours = tuple(busy)
    sets = list(product((False, True), repeat=len(neighbours)))
    chance = np.array([_chance(busy, neighbours, s) for s in sets])
    beside = [tuple(n for n, on in zip(neighbours, s, strict=True) if on) for s in sets]
    found = iter(model.predict([Colocation(victim, b) for b in beside if b]))
    predictions = [next(found) if b else _ALONE for b in beside]
    slowdown = np.array([p.slowdown for p in predictions])
    upper = np.array([p.upper for p in predictions])
    possible = chance > 0
    bases = {p.basis for p, b, c in zip(predictions, beside, chance, strict=True) if b and c > 0}
    return ActivePrediction(
        mean=float(slowdown[possible] @ chance[possible]),
        mean_upper=float(upper[possible] @ chance[possible]),
        tail=_quantile(slowdown, chance, quantile),
        tail_upper=_quantile(upper, chance, quantile),
        basis=next((b for b in (Basis.CONSTANT, Basis.PROFILES, Basis.FIT) if b in bases), Basis.PROFILES),
    )


def mean_prediction(model: Predictor, victim: Resident, busy: Mapping[Resident, float]) -> Prediction:
    """The mean over who is busy at once, as a prediction; its deviation is told from the bound, two deviations up.

    Raises:
        InvalidInput: As `predict_active`.
    """
    found = predict_active(model, victim, busy)
    mean, upper = found.mean, found.mean_upper
    if not math.isfinite(upper):
        return Prediction(mean, math.inf, _UNKNOWN, Basis.CONSTANT)
    return Prediction(mean, upper, max(math.log(upper / mean) / _DEVIATIONS, _LEAST), found.basis)


def _chance(busy: Mapping[Resident, float], neighbours: Sequence[Resident], on: Sequence[bool]) -> float:
    return prod(busy[n] if is_on else 1 - busy[n] for n, is_on in zip(neighbours, on, strict=True))


def _quantile(values: Array, chance: Array, level: float) -> float:
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(chance[order]) >= level - 1e-12
    return float(values[order][int(np.argmax(reached))]) if reached.any() else float(values.max())
