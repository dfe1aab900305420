"""The interference model's answers in the form that the planners ask for: tables by share, kept once made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from isolation.interference.model import InterferenceModel
from isolation.interference.rows import Colocation
from partywall.domain.profiles import Resident
from router.policy.packing import Item

Floats = NDArray[np.float64]
HALF = 50
"""Percent; the screen's sensitivities and pressures are read where two share a device evenly."""


class PredictedNeighbours:
    """`packing.SlowdownBound` and `cutting.NeighbourCost` over one fitted model.

    Args:
        model: The predictor; profiles of all names stand in its atlas.
        names: Profile name of each model index; several indices may have one name.
        solo_s: Seconds alone by name and share in percent; straight in 1 / latency between the measured shares.
    """

    def __init__(
        self, model: InterferenceModel, names: Sequence[str], solo_s: Mapping[str, Mapping[int, float]]
    ) -> None:
        self._model = model
        self._names = tuple(names)
        self._distinct = tuple(sorted(set(names)))
        place = {name: at for at, name in enumerate(self._distinct)}
        self._row = np.array([place[name] for name in names], dtype=np.int64)
        self._solo = solo_s
        self._tables: dict[tuple[int, int], tuple[Floats, Floats]] = {}
        self._crowds: dict[tuple[Resident, tuple[Resident, ...]], float] = {}

    def solo_s(self, share: int) -> Floats:
        """Latency of each model alone, (models,)."""
        found = []
        for name in self._distinct:
            shares = sorted(self._solo[name])
            speeds = [1 / self._solo[name][s] for s in shares]
            found.append(1 / float(np.interp(share, [0, *shares], [0.0, *speeds])))
        return np.array(found)[self._row]

    def log_slowdown(self, share: int, neighbour_share: int) -> tuple[Floats, Floats]:
        """Mean and upper bound of log slowdown, (victims, neighbours)."""
        mean, upper = self._table(share, neighbour_share)
        at = np.ix_(self._row, self._row)
        return mean[at], upper[at]

    def sensitivity(self, model: int) -> float:
        """Mean slowdown at the bound beside everybody at an even share."""
        return float(np.expm1(self._table(HALF, HALF)[1][self._row[model]]).mean())

    def pressure(self, model: int, share: int) -> float:
        """Mean slowdown that it causes there, over the mean of all, in proportion to the share."""
        extra = np.expm1(self._table(HALF, HALF)[1])
        return float(extra[:, self._row[model]].mean() / max(float(extra.mean()), 1e-9)) * share / HALF

    def slowdown(self, victim: Item, neighbours: Sequence[Item]) -> float:
        """The bound beside all of them at once."""
        if not neighbours:
            return 1.0
        ours = Resident(self._names[victim.model], victim.share)
        beside = tuple(sorted(Resident(self._names[n.model], n.share) for n in neighbours))
        if (ours, beside) not in self._crowds:
            self._crowds[ours, beside] = self._model.predict([Colocation(ours, beside)])[0].upper
        return self._crowds[ours, beside]

    def _table(self, share: int, neighbour_share: int) -> tuple[Floats, Floats]:
        key = share, neighbour_share
        if key not in self._tables:
            rows = [
                Colocation(Resident(v, share), (Resident(n, neighbour_share),))
                for v in self._distinct
                for n in self._distinct
            ]
            found = self._model.predict(rows)
            shape = len(self._distinct), len(self._distinct)
            self._tables[key] = (
                np.log([p.slowdown for p in found]).reshape(shape),
                np.log([p.upper for p in found]).reshape(shape),
            )
        return self._tables[key]
