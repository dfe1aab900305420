"""Service times of one replica since somebody last looked: all that the request's road pays for live correction."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeAlias

Taken: TypeAlias = Mapping[int, tuple[float, float]]
"""(batches, seconds together) by rows."""


class ServiceWindow:
    """Batches by rows: how many, and their seconds together."""

    __slots__ = ("_sums",)

    def __init__(self) -> None:
        self._sums: dict[int, list[float]] = {}

    def add(self, rows: int, service_s: float, part: float = 1.0) -> None:
        """One executed batch, or the part of it whose requests came through here: routers share batches."""
        held = self._sums.get(rows)
        if held is None:
            self._sums[rows] = [part, part * service_s]
        else:
            held[0] += part
            held[1] += part * service_s

    def take(self) -> Taken:
        """What came since the last call."""
        taken, self._sums = self._sums, {}
        return {rows: (count, seconds) for rows, (count, seconds) in taken.items()}


def together(parts: Iterable[Taken]) -> Taken:
    """The sum of what several routers saw of one replica."""
    sums: dict[int, tuple[float, float]] = {}
    for part in parts:
        for rows, (count, seconds) in part.items():
            before = sums.get(rows, (0.0, 0.0))
            sums[rows] = before[0] + count, before[1] + seconds
    return sums
