"""A few live observations of an ordered pair move what is believed of the same pair at other shares.

The residuals of one pair at several shares are jointly Gaussian: their correlation is a mixture of what the process
believes (errors of the curves, alike where shares are alike), a common part (this pair is simply worse than its
curves) and noise. The mixture's weights are learned from the inner leave-one-model-out of the training part, by
nonnegative least squares on products of standardised residuals; half of the correlation is what those products are on
average between two settings of shares. So observations are shrunk by as much as unseen models of the training part say
(an empirical-Bayes random effect: Robinson 1991).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from isolation.interference.atlas import Shares
from isolation.interference.gaussian import Belief
from isolation.interference.mixtures import Array
from isolation.interference.pairs import Residuals
from isolation.interference.rows import Pair

_CLIP = 3.0
_JITTER = 1e-6


@dataclass(frozen=True, slots=True)
class ResidualPrior:
    """Weights of (the process's correlation, common part, same victim share, same neighbour share, noise), and mean
    products of standardised residuals between settings of shares."""

    weights: Array
    products: Mapping[tuple[Shares, Shares], float]

    @classmethod
    def learn(cls, residuals: Iterable[Residuals]) -> ResidualPrior:
        """Without residuals the process's own covariance stands."""
        design, products = [], []
        by_shares: dict[tuple[Shares, Shares], list[float]] = {}
        for r in residuals:
            score = np.clip((r.measured - r.belief.mean) / r.belief.deviation, -_CLIP, _CLIP)
            for places in by_ordered_pair(r.pairs).values():
                parts = _parts([r.pairs[i] for i in places], r.belief.covariance[np.ix_(places, places)])
                design.append(parts.reshape(len(parts), -1).T)
                products.append(np.outer(score[places], score[places]).ravel())
                for i in places:
                    for j in places:
                        by_shares.setdefault((r.pairs[i].shares, r.pairs[j].shares), []).append(score[i] * score[j])
        if not design:
            return cls(np.array([1.0, 0.0, 0.0, 0.0, 0.0]), {})
        # As in `mixtures`: importing it costs a third of a second.
        from scipy.optimize import nnls

        weights = nnls(np.concatenate(design), np.concatenate(products))[0]
        return cls(np.asarray(weights), {k: float(np.mean(v)) for k, v in by_shares.items()})

    def covariance(self, pairs: Sequence[Pair], belief: Belief) -> Array:
        """Covariance of the residuals of one ordered pair's rows."""
        scale = np.outer(belief.deviation, belief.deviation)
        mixture = np.tensordot(self.weights, _parts(pairs, belief.covariance), 1)
        keys = [[(a.shares, b.shares) for b in pairs] for a in pairs]
        if not all(k in self.products for row in keys for k in row):
            return np.asarray(mixture * scale)
        empirical = np.array([[self.products[k] for k in row] for row in keys])
        return np.asarray((0.5 * mixture + 0.5 * empirical) * scale)

    def corrected(self, pairs: Sequence[Pair], belief: Belief, observed: Sequence[int], measured: Array) -> Array:
        """Means of all rows of one ordered pair after `measured` log slowdowns at the rows `observed`."""
        seen = list(observed)
        if not seen:
            return belief.mean
        covariance = self.covariance(pairs, belief)
        inner = covariance[np.ix_(seen, seen)] + _JITTER * np.eye(len(seen))
        return np.asarray(belief.mean + covariance[:, seen] @ np.linalg.solve(inner, measured - belief.mean[seen]))


def by_ordered_pair(pairs: Sequence[Pair]) -> dict[tuple[str, str], list[int]]:
    """Places of each (victim, neighbour), in order."""
    places: dict[tuple[str, str], list[int]] = {}
    for i, pair in enumerate(pairs):
        places.setdefault((pair.victim.name, pair.neighbour.name), []).append(i)
    return places


def _parts(pairs: Sequence[Pair], covariance: Array) -> Array:
    deviation = np.sqrt(np.diag(covariance))
    victim = np.array([p.victim.share_percent for p in pairs])
    neighbour = np.array([p.neighbour.share_percent for p in pairs])
    return np.array(
        [
            covariance / np.outer(deviation, deviation),
            np.ones_like(covariance),
            (victim[:, None] == victim[None]).astype(float),
            (neighbour[:, None] == neighbour[None]).astype(float),
            np.eye(len(pairs)),
        ]
    )
