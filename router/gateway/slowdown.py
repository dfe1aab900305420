"""What neighbours cost one replica, as live correction last saw it."""

from __future__ import annotations

from dataclasses import dataclass

from isolation.interference.model import Basis
from partywall.domain.placements import Placement


@dataclass(frozen=True, slots=True)
class SlowdownNow:
    """What neighbours cost one replica, as of the last look. `observed` 0.0: no batch of it ran lately.

    `predicted` is the profiles' word alone, `corrected` and `bound` after live traffic. `neighbours` were busy.
    """

    placement: Placement
    share_percent: int
    neighbours: tuple[Placement, ...]
    predicted: float
    corrected: float
    bound: float
    observed: float
    basis: Basis
    wants_profile: bool


@dataclass(frozen=True, slots=True)
class Activity:
    """How one replica works, as live traffic shows it.

    Attributes:
        busy: Upper bound on the part of the time that it works: 1.0 at first, then the peak, forgotten slowly.
        seen: The peak that was seen, 0.0 at first.
        batches_per_s: Likewise, 0.0 at first.
        ratio: Service time of its batches alone / one row's solo time by the profile.
    """

    busy: float = 1.0
    seen: float = 0.0
    batches_per_s: float = 0.0
    ratio: float = 1.0
