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
