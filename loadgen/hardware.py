"""The simulated fleet's parts: devices, lanes, changes, and how neighbours slow a lane."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from partywall.errors import InternalError, InvalidInput

EPSILON_GB = 1e-9
Batch = Sequence[int]
"""Requests of one model, by number."""


@dataclass(frozen=True, slots=True)
class FleetChange:
    """A failure (`up` false) or a device that joins, at a time."""

    at_s: float
    device: int
    up: bool


@dataclass(frozen=True, slots=True)
class Hardware:
    """The fleet: equal devices. `load_gb_per_s` is each copy engine's rate."""

    devices: int
    memory_gb: float
    load_gb_per_s: float = 25.0

    def __post_init__(self) -> None:
        for name in ("devices", "memory_gb", "load_gb_per_s"):
            if not getattr(self, name) > 0:
                raise InvalidInput(f"{name} must be above zero, got {getattr(self, name)}", fields={"field": name})


class Pace(Protocol):
    """How fast batches really run on a cut device. Without one a lane runs at its share, whoever is beside it."""

    def service_s(self, model: int, share: float, size: int) -> float:
        """Seconds of a batch alone on the device at this share of it."""
        ...

    def slowdowns(self, running: Sequence[tuple[int, float]]) -> Sequence[float]:
        """Slowdown of each (model, share) that runs on one device at once, in order; at least 1."""
        ...


class Device:
    """One device's memory, copy engine and lanes."""

    __slots__ = ("copying", "free_gb", "lanes", "resident", "up")

    def __init__(self, memory_gb: float) -> None:
        self.free_gb = memory_gb
        self.resident: set[int] = set()
        self.copying = -1
        self.lanes: list[int] = []
        self.up = True

    def hold(self, weights_gb: float) -> None:
        """Takes memory for weights; `InternalError` when there is too little."""
        if self.free_gb + EPSILON_GB < weights_gb:
            raise InternalError(f"a device has {self.free_gb:.3f} GB free and was given weights of {weights_gb:.3f} GB")
        self.free_gb -= weights_gb

    def clear(self, memory_gb: float, *, up: bool) -> None:
        """It went away, or came (back) empty."""
        self.up = up
        self.copying = -1
        self.resident = set()
        self.free_gb = memory_gb if up else 0.0


class Lane:
    """What runs one batch at a time: `left_s` solo seconds of it were left at `since_s`, at `slowdown` from there."""

    __slots__ = ("batch", "began_s", "device", "ended_s", "left_s", "model", "share", "since_s", "slowdown", "ticket")

    def __init__(self, device: int, share: float) -> None:
        self.device = device
        self.share = share
        self.model = -1
        self.batch: Batch = ()
        self.began_s = 0.0
        self.ticket = 0
        self.ended_s = -math.inf
        self.left_s = 0.0
        self.since_s = 0.0
        self.slowdown = 1.0


def repaced(running: Sequence[Lane], pace: Pace, now: float) -> list[float]:
    """Settles what the lanes that run on one device have done so far, and when each will be done beside the others."""
    finishes: list[float] = []
    slowdowns = pace.slowdowns([(lane.model, lane.share) for lane in running])
    for lane, slowdown in zip(running, slowdowns, strict=True):
        lane.left_s = max(0.0, lane.left_s - (now - lane.since_s) / lane.slowdown)
        lane.since_s, lane.slowdown = now, slowdown
        finishes.append(now + lane.left_s * slowdown)
    return finishes
