"""Profiles: what a model costs alone, what it suffers from each resource and what it does to each."""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

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

    def __post_init__(self) -> None:
        for label, values in (
            ("solo_ms", self.solo_ms),
            ("sensitivity", self.sensitivity),
            ("pressure", self.pressure),
        ):
            for value in values.values():
                if not (math.isfinite(value) and value > 0):
                    raise InvalidInput(f"{label} of {self.model} must be positive, got {value}; measure it again")

    @property
    def probed(self) -> bool:
        """Whether both curves exist: a model without them is isolated until it is measured."""
        return bool(self.sensitivity) and bool(self.pressure)
