"""The words of placement: what is wanted, what stands, and the two answers."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from isolation.trust import Clearance, Resident
from partywall.domain.fleet import Device, Partition
from partywall.domain.placements import Alternative, Placement
from partywall.domain.tenants import TrustPolicy
from router.policy.sharing_words import Sharing, SharingLimits, Work


@dataclass(frozen=True, slots=True)
class Want:
    """A replica that is to be placed. `memory_bytes` is its estimate, `service_s` a measured time or 0.0."""

    resident: Resident
    model_id: str
    version: int
    memory_bytes: int
    weights_bytes: int
    share_percent: int = 0
    service_s: float = 0.0
    memory_quota_bytes: int | None = None
    apart: bool = False
    """One more replica of a version that serves: on compute units that nobody has, leaving some for the next tenant."""
    work: Work = field(default_factory=Work)
    """What it asks of its device, for the interference model."""


@dataclass(frozen=True, slots=True)
class Standing:
    """A placement that exists, with its owner and the work that waits for its worker."""

    placement: Placement
    resident: Resident
    backlog_s: float = 0.0
    work: Work = field(default_factory=Work)


@dataclass(frozen=True, slots=True)
class NodeView:
    """A live node."""

    name: str
    devices: tuple[Device, ...]


@dataclass(frozen=True, slots=True)
class Chosen:
    """A place, with the trust rule's clearance for it."""

    node: str
    partition: Partition
    worker_id: str
    clearance: Clearance
    predicted_finish_s: float
    reason: str
    alternatives: tuple[Alternative, ...]
    sharing: Sharing = Sharing.ACCEPTABLE
    strain: float = 0.0
    """The worst of those that would stand there, by the interference model."""


@dataclass(frozen=True, slots=True)
class NoPlace:
    """Nowhere now; `permanent` when no device of the fleet could ever hold it."""

    reason: str
    permanent: bool
    alternatives: tuple[Alternative, ...]


class Placing(enum.StrEnum):
    """What to do with a model for which no place keeps everybody's objective."""

    BEST_EFFORT = "best-effort"
    """It goes where it is predicted to harm least."""
    STRICT = "strict"
    """It waits."""


@dataclass(frozen=True, slots=True)
class Operator:
    """The operator's say: the weakest trust policy allowed, whether cores may be time-shared, and what neighbours may
    cost each other."""

    floor: TrustPolicy = TrustPolicy.SHARED
    overcommit: bool = True
    placing: Placing = Placing.BEST_EFFORT
    sharing: SharingLimits = field(default_factory=SharingLimits)
