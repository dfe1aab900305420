"""What a replica would take at another share, and what part of its requests would come too late. Pure.

The base is what was measured at the share that stands, at its upper bound and beside its neighbours; the profile only
says by what it changes with the share, straight in 1 / latency between the shares that it holds (as `sizing`). So at
the share that stands this is the reckoning by which `scaling` counts replicas, and the two never disagree about it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from partywall.domain.profiles import SHARE_TOLERANCE
from router.policy.reshare_words import Curve, Cut, Holding, Size
from router.policy.scaling import expected


def solo_s(curve: Curve, rows: int, percent: int) -> float | None:
    """Seconds of a batch alone at a share, of the measured number of rows nearest to `rows`; None: not measured near.

    Below the least measured share the speed goes straight to nothing, above the largest it stays.
    """
    sizes = {r for r, _ in curve}
    nearest = min(sizes, key=lambda r: (abs(math.log(r / rows)), r), default=None)
    speeds = sorted((share, 1.0 / seconds) for (r, share), seconds in curve.items() if r == nearest)
    if not speeds or min(abs(share - percent) for share, _ in speeds) > SHARE_TOLERANCE:
        return None
    if percent >= speeds[-1][0]:
        return 1.0 / speeds[-1][1]
    for (below, slow), (above, fast) in pairwise([(0, 0.0), *speeds]):
        if percent <= above:
            return 1.0 / (slow + (fast - slow) * (percent - below) / (above - below))
    return None


def factor(holding: Holding, rows: int, now: Size, then: Size) -> float | None:
    """By what its batches take longer at another share; None: its profile does not tell."""
    if now == then:
        return 1.0
    before, after = solo_s(holding.curve, rows, now.percent), solo_s(holding.curve, rows, then.percent)
    return after / before if before is not None and after is not None else None


def used(holding: Holding, now: Size, then: Size) -> float:
    """The part of its time that a replica would work at a share; 0.0 where its load is not known."""
    return _reckoned(holding, now, then, 1.0, 1.0)[1]


def late(cut: Cut, then: Size, headroom: float = 1.0) -> float | None:
    """The part of the requests that would come too late at a share, at the worst of those inside.

    Args:
        cut: The partition.
        then: The share that it would have.
        headroom: On the rates and on the burstiness.

    Returns:
        0 to 1; None where nobody inside has an objective and a load, or the profiles do not reach there.
    """
    now, worst = cut.size, None
    for holding in cut.holdings:
        if holding.load is None or not holding.load.known:
            continue
        if any(factor(holding, holding.load.rows(size), now, then) is None for size in holding.load.batch_s):
            return None
        # Replicas of one worker take turns: their time comes on top. Of other workers it is in the measured times.
        turns = 1.0 + sum(used(mate, now, then) for mate in _mates(cut.holdings, holding))
        found, _ = _reckoned(holding, now, then, headroom, turns)
        worst = found if worst is None else max(worst, found)
    return worst


def _mates(holdings: Sequence[Holding], one: Holding) -> list[Holding]:
    worker = one.resident.placement.worker_id
    return [h for h in holdings if h is not one and h.resident.placement.worker_id == worker]


def _reckoned(holding: Holding, now: Size, then: Size, headroom: float, turns: float) -> tuple[float, float]:
    """(late, used)."""
    load = holding.load
    if load is None:
        return 0.0, 0.0
    service = {b: s * turns * (factor(holding, load.rows(b), now, then) or 1.0) for b, s in load.batch_s.items()}
    if not service:
        return 0.0, 0.0
    best = expected(service, load.objective_ms, load.rate_per_s * headroom, load.burstiness * headroom, 1)
    return 1.0 - best.attainment, best.utilisation
