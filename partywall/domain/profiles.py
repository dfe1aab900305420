"""Profiles: what a model costs alone, what it suffers from each resource and what it does to each."""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise

from partywall.domain.fleet import Device, DeviceKind
from partywall.errors import InvalidInput


class Resource(enum.StrEnum):
    """What neighbours share even when their compute units are their own."""

    DRAM = "dram"
    RANDOM = "random"
    L2 = "l2"
    L2_LARGE = "l2big"
    POWER = "power"
    LAUNCH = "tiny"
    PCIE = "pcie"
    LLC = "llc"
    MEMORY_BANDWIDTH = "membw"


def device_type(device: Device) -> str:
    """Devices of one type share profiles: a GPU by its name, a CPU by its name and its number of cores."""
    return device.name if device.kind is DeviceKind.GPU else f"{device.name or 'CPU'} x{device.compute_units}"


@dataclass(frozen=True, slots=True, order=True)
class ProbeSetting:
    """A probe with its dial: level 1.0 is flat out, lower levels are duty cycles."""

    resource: Resource
    level: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.level <= 1:
            raise InvalidInput(f"level must be above 0 and at most 1, got {self.level}")

    @property
    def name(self) -> str:
        return f"probe:{self.resource.value}:{self.level}"


@dataclass(frozen=True, slots=True, order=True)
class Resident:
    """Who runs at which share of the device, in percent."""

    name: str
    share_percent: int

    def __post_init__(self) -> None:
        if not 0 < self.share_percent <= 100:
            raise InvalidInput(f"share_percent of {self.name} must be 1 to 100, got {self.share_percent}")


@dataclass(frozen=True, slots=True)
class Counters:
    """GPU performance monitoring counters of a solo run: percent of the whole device's peak, watts, MHz."""

    sm_util: float
    sm_occupancy: float
    tensor: float
    dram_bw: float
    watts: float
    sm_mhz: float
    fp32: float = 0.0
    fp16: float = 0.0


@dataclass(frozen=True, slots=True, order=True)
class ProbePoint:
    """One co-run with a probe: the setting, the model's own share and the probe's, in percent."""

    probe: ProbeSetting
    own_percent: int
    probe_percent: int


@dataclass(frozen=True, slots=True)
class Profile:
    """What the profiler learned of one model version at one batch size on one device type.

    Attributes:
        solo_ms: Mean latency of one batch alone, by share in percent.
        beside_probes_ms: The same, by the processes that ran beside the probes; probe runs are divided by these.
        sensitivity: The model's slowdown beside a probe (latency beside it / alone at the same share).
        pressure: The probe's own slowdown beside the model.
        counters: Device counters of the solo runs, where the device has them.
        batch: Rows of the batches behind `solo_ms` and the curves.
        solo_at_ms: Mean latency alone by (rows, share in percent), for every batch size that was measured.
        probe_self: Slowdown of a probe beside itself, at (its own share, the other's): the unit of pressure.
        spread: Median relative spread of the slowdowns between rounds of one run.
    """

    model: str
    device_type: str
    solo_ms: Mapping[int, float]
    beside_probes_ms: Mapping[int, float] = field(default_factory=dict)
    sensitivity: Mapping[ProbePoint, float] = field(default_factory=dict)
    pressure: Mapping[ProbePoint, float] = field(default_factory=dict)
    counters: Mapping[int, Counters] = field(default_factory=dict)
    batch: int = 1
    memory_bytes: int = 0
    load_seconds: float = 0.0
    input_bytes: int = 0
    output_bytes: int = 0
    solo_at_ms: Mapping[tuple[int, int], float] = field(default_factory=dict)
    probe_self: Mapping[ProbePoint, float] = field(default_factory=dict)
    spread: float = 0.0

    def __post_init__(self) -> None:
        for label, values in (
            ("solo_ms", self.solo_ms),
            ("sensitivity", self.sensitivity),
            ("pressure", self.pressure),
            ("solo_at_ms", self.solo_at_ms),
            ("probe_self", self.probe_self),
        ):
            for value in values.values():
                if not (math.isfinite(value) and value > 0):
                    raise InvalidInput(f"{label} of {self.model} must be positive, got {value}; measure it again")

    @property
    def probed(self) -> bool:
        """Whether both curves exist: a model without them is isolated until it is measured."""
        return bool(self.sensitivity) and bool(self.pressure)

    def solo_of(self, rows: int, share_percent: int) -> float | None:
        """Mean latency in ms of a batch of `rows` alone at a share; None where no share near it was measured.

        Between measured sizes linear in rows (the affine law of Nexus, SOSP 2019, section 2), above the largest one
        scaled by rows, below the smallest one that one itself.
        """
        shares = {s for _, s in self.solo_at_ms} or set(self.solo_ms)
        nearest = min(shares, key=lambda s: abs(s - share_percent), default=None)
        if nearest is None or abs(nearest - share_percent) > SHARE_TOLERANCE:
            return None
        points = sorted((r, ms) for (r, s), ms in self.solo_at_ms.items() if s == nearest)
        points = points or [(self.batch, self.solo_ms[nearest])]
        if rows <= points[0][0]:
            return points[0][1]
        for (below, low), (above, high) in pairwise(points):
            if rows <= above:
                return low + (high - low) * (rows - below) / (above - below)
        return points[-1][1] * rows / points[-1][0]


SHARE_TOLERANCE = 13
"""Percent points between a share and the measured one that stands for it: half the usual grid of 25."""
