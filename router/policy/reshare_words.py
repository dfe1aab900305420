"""The words of cutting shares anew: who holds a share, how it is loaded, what is proposed, the limits of patience."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from partywall.domain.fleet import Device, DeviceKind, Partition, PartitionKind
from partywall.domain.placements import Alternative
from router.policy.candidates import DEFAULT_SHARE_PERCENT, core_count
from router.policy.regroup_words import Resident, Where
from router.policy.retarget import Change, Target
from router.policy.sharing import share_percent

Curve = Mapping[tuple[int, int], float]
"""Seconds of a batch alone by (rows, share in percent), as the profile measured it."""


@dataclass(frozen=True, slots=True)
class ReshareLimits:
    """Seconds, percent and factors; see `reshare`.

    `headroom` on rate and burstiness is what a new share is sized for. A share is cut only to `band` of what it was or
    less. `step_percent` is the grain of MPS shares. `settle_s`: how long a device is left alone after a change on it.
    `miss` of the requests may come too late; `busy` is how much of its time a replica must work before more share can
    help. `searches` bound one look: sizes that are tried of one share, and `gains`: shares that are too small, and too
    large, for which anything is tried at all.
    """

    confirm_s: float = 10.0
    hold_s: float = 120.0
    settle_s: float = 30.0
    headroom: float = 1.3
    band: float = 0.7
    step_percent: int = 5
    miss: float = 0.01
    busy: float = 0.5
    searches: int = 16
    gains: int = 4


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked of a replica.

    Attributes:
        batch_s: Upper bound of its own service times by requests in a batch, at the share that it has; empty while
            nothing ran.
        objective_ms: 0: none.
        rate_per_s: Bound of the forecast, its part of the model's.
        burstiness: CV of the gaps.
        replicas: How many the model has.
        at_risk: The objective is missed faster than allowed.
        steady: The number of replicas is not being changed.
        rows_per_request: Profiles count in rows.
    """

    batch_s: Mapping[int, float]
    objective_ms: float
    rate_per_s: float
    burstiness: float
    replicas: int = 1
    at_risk: bool = False
    steady: bool = True
    rows_per_request: float = 1.0

    @property
    def known(self) -> bool:
        return bool(self.objective_ms and self.batch_s)

    def rows(self, requests: int) -> int:
        """In a batch of so many requests."""
        return max(1, round(requests * self.rows_per_request))


@dataclass(frozen=True, slots=True)
class Holding:
    """A replica that stands in a share. `load` None: it is not known. `asked`: somebody asked for just this share."""

    resident: Resident
    curve: Curve = field(default_factory=dict)
    load: Load | None = None
    asked: bool = False


@dataclass(frozen=True, slots=True, order=True)
class Size:
    """A share: percent of the device's compute, and cores where it is a CPU's."""

    percent: int
    cores: int = 0

    def __str__(self) -> str:
        return f"{self.cores} core(s)" if self.cores else f"{self.percent} %"

    @property
    def units(self) -> int:
        return self.cores or self.percent

    @property
    def change(self) -> Change:
        return Change(cores=self.cores) if self.cores else Change(share_percent=self.percent)


@dataclass(frozen=True, slots=True)
class Cut:
    """A partition that stands on a device, with all that hold it."""

    node: str
    device: Device
    partition: Partition
    holdings: tuple[Holding, ...]

    @property
    def where(self) -> Where:
        return self.node, self.device.id

    @property
    def key(self) -> tuple[str, str]:
        return self.node, self.partition.id

    @property
    def size(self) -> Size:
        return Size(share_percent(self.partition, self.device), len(self.partition.cores))

    def sizes(self, step_percent: int) -> list[Size]:
        """All that a partition of this kind can have there, the least first; none: its kind has no sizes."""
        device, kind = self.device, self.partition.kind
        if kind is PartitionKind.CPUSET and device.compute_units:
            units = device.compute_units
            return [Size(max(1, round(100 * n / units)), n) for n in range(1, units + 1)]
        if kind is PartitionKind.MPS:
            return [Size(percent) for percent in range(step_percent, 101, step_percent)]
        if kind is PartitionKind.MIG and device.compute_units:
            return [
                Size(p) for p in sorted({100 * i.compute_units // device.compute_units for i in device.instances} - {0})
            ]
        return []

    @property
    def default(self) -> Size:
        """What a newcomer gets there."""
        if self.device.kind is DeviceKind.CPU:
            count = core_count(self.device, 0)
            return Size(max(1, round(100 * count / self.device.compute_units)), count)
        return Size(DEFAULT_SHARE_PERCENT)


class Which(enum.StrEnum):
    GROW = "grow"
    SHRINK = "shrink"


@dataclass(frozen=True, slots=True)
class Recut:
    """A share that would change. `target` None: it would, but cannot. `due`: now; else when it has held.

    `late_now` and `late_then`: the part of the requests that is expected too late, at the worst of those inside, with
    the forecast rate and burstiness.
    """

    cut: Cut
    which: Which
    then: Size
    target: Target | None
    reason: str
    late_now: float
    late_then: float
    held_s: float = 0.0
    due: bool = False
    looked_at: tuple[Alternative, ...] = ()

    @property
    def models(self) -> frozenset[str]:
        return frozenset(h.resident.placement.model_id for h in self.cut.holdings)

    def waiting(self, held_s: float, *, due: bool) -> Recut:
        return replace(self, held_s=held_s, due=due)
