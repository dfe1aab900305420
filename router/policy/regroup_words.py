"""The words of regrouping: what stands, what would be moved and why, and the limits of patience."""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace

from partywall.domain.placements import Placement
from router.policy.retarget import Member
from router.policy.sharing import Tenancy
from router.policy.sharing_words import Work
from router.policy.wants import Chosen

Where = tuple[str, str]
"""(node, device id)."""


@dataclass(frozen=True, slots=True)
class RegroupLimits:
    """Seconds and factors; see `regroup`. `settle_s`: how long a device is left alone after a move to or from it.

    `spares`: devices considered for emptying at one look, those with the fewest residents. `targets`: devices in
    use, and as many empty ones, that are looked at as a place to go.
    """

    split_after_s: float = 10.0
    margin: float = 1.15
    hold_s: float = 120.0
    merge_margin: float = 1.3
    settle_s: float = 30.0
    rest_s: float = 600.0
    spares: int = 3
    targets: int = 16


@dataclass(frozen=True, slots=True)
class Resident:
    """A replica that stands, with what it would need elsewhere and what was seen of it.

    `observed` is its slowdown by live traffic, 0.0: none known. `fixed`: it may not be moved now.
    """

    member: Member
    seen: Work
    observed: float = 0.0
    fixed: bool = False

    @property
    def placement(self) -> Placement:
        return self.member.standing.placement

    @property
    def where(self) -> Where:
        return self.placement.node, self.placement.partition.device_id

    @property
    def tenancy(self) -> Tenancy:
        """By what was seen."""
        return replace(Tenancy.of(self.member.standing), work=self.seen)


class Why(enum.StrEnum):
    APART = "apart"
    TOGETHER = "together"


@dataclass(frozen=True, slots=True)
class Move:
    """One replica that would go. `target` None: it would, but no other place is better. `due`: now; else later.

    `strain_now` is the worst on its device as it is, `strain_then` the worst that is predicted where it goes and among
    those that it leaves.
    """

    placement: Placement
    target: Chosen | None
    why: Why
    reason: str
    strain_now: float
    strain_then: float
    held_s: float
    due: bool
