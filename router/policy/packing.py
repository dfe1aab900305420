"""Devices as bins with several dimensions: share, memory, pressure on neighbours, and who may stand beside whom.

The screen over all devices is a few vector operations, so that one placement costs microseconds at a thousand devices.
Interference is screened in its bilinear form: a newcomer of pressure p adds (sensitivity x p) to each resident's
slowdown. What passes is checked against the exact upper bound, for the newcomer and for every neighbour.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

TRIES = 4
"""Devices checked exactly before a new one is opened."""


@dataclass(frozen=True, slots=True)
class Item:
    """One replica to place. `wall` names who may share a device: equal walls may, others never."""

    model: int
    share: int
    memory_gb: float
    wall: int
    sensitivity: float
    pressure: float
    slack: float
    """The slowdown it bears."""


class SlowdownBound(Protocol):
    """The interference model's upper bounds, as the planner needs them."""

    def sensitivity(self, model: int) -> float:
        """Extra slowdown per unit of neighbours' pressure (screening)."""
        ...

    def pressure(self, model: int, share: int) -> float:
        """What a replica at a share puts on its neighbours (screening)."""
        ...

    def slowdown(self, victim: Item, neighbours: Sequence[Item]) -> float:
        """Upper bound of the victim's slowdown beside all of them."""
        ...


class Bins:
    """The devices and what stands on them. An empty device has wall -1."""

    def __init__(self, devices: int, memory_gb: float, bound: SlowdownBound) -> None:
        self.memory_gb = memory_gb
        self.share_left = np.full(devices, 100, dtype=np.int64)
        self.memory_left = np.full(devices, memory_gb)
        self.wall = np.full(devices, -1, dtype=np.int64)
        self.pressure = np.zeros(devices)
        self.tolerance = np.full(devices, np.inf)
        self.residents: list[list[Item]] = [[] for _ in range(devices)]
        self._bound = bound
        self._opened = 0

    @property
    def used(self) -> int:
        """Devices that hold something."""
        return int(np.count_nonzero(self.wall >= 0))

    def find(self, item: Item, *, avoid: int = -1, open_new: bool = True) -> int | None:
        """The fullest device that takes the item, else an empty one, else None."""
        spare = item.slack - 1.0
        fits = (
            (self.wall == item.wall)
            & (self.share_left >= item.share)
            & (self.memory_left >= item.memory_gb - 1e-9)
            & (self.tolerance >= item.pressure - 1e-12)
            & (self.pressure * item.sensitivity <= spare + 1e-12)
        )
        if avoid >= 0:
            fits[avoid] = False
        able = np.flatnonzero(fits)
        if able.size:
            left = self.share_left[able] / 100 + 0.25 * self.memory_left[able] / self.memory_gb
            few = able[np.argpartition(left, TRIES - 1)[:TRIES]] if able.size > TRIES else able
            for device in sorted(few.tolist(), key=lambda d: (self.share_left[d], d)):
                if self.allowed(item, device):
                    return int(device)
        return self._empty(item) if open_new else None

    def _empty(self, item: Item) -> int | None:
        if item.memory_gb > self.memory_gb + 1e-9 or item.share > 100:
            return None
        while self._opened < len(self.residents) and self.wall[self._opened] >= 0:
            self._opened += 1
        return self._opened if self._opened < len(self.residents) else None

    def allowed(self, item: Item, device: int) -> bool:
        """Whether newcomer and every neighbour keep their objectives at the exact upper bound."""
        residents = self.residents[device]
        if self._bound.slowdown(item, residents) > item.slack + 1e-9:
            return False
        for at, victim in enumerate(residents):
            others = [*residents[:at], *residents[at + 1 :], item]
            if self._bound.slowdown(victim, others) > victim.slack + 1e-9:
                return False
        return True

    def add(self, item: Item, device: int) -> None:
        """Puts an item on a device that was found for it."""
        self.residents[device].append(item)
        self.share_left[device] -= item.share
        self.memory_left[device] -= item.memory_gb
        self.wall[device] = item.wall
        self._screen(device)

    def remove(self, item: Item, device: int) -> None:
        """Takes an item away."""
        self.residents[device].remove(item)
        self.share_left[device] += item.share
        self.memory_left[device] += item.memory_gb
        if not self.residents[device]:
            self.wall[device] = -1
            self._opened = min(self._opened, device)
        self._screen(device)

    def _screen(self, device: int) -> None:
        """Recomputes what the residents put on others, and how much more they bear."""
        residents = self.residents[device]
        total = sum(r.pressure for r in residents)
        self.pressure[device] = total
        self.tolerance[device] = min(
            ((r.slack - 1.0) / max(r.sensitivity, 1e-12) - (total - r.pressure) for r in residents), default=np.inf
        )
