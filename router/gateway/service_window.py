"""Service times of one replica since somebody last looked: all that the request's road pays for live correction."""

from __future__ import annotations

from collections.abc import Mapping


class ServiceWindow:
    """Batches by rows: how many, and their seconds together."""

    __slots__ = ("_sums",)

    def __init__(self) -> None:
        self._sums: dict[int, list[float]] = {}

    def add(self, rows: int, service_s: float) -> None:
        """One executed batch."""
        held = self._sums.get(rows)
        if held is None:
            self._sums[rows] = [1.0, service_s]
        else:
            held[0] += 1.0
            held[1] += service_s

    def take(self) -> Mapping[int, tuple[float, float]]:
        """(batches, seconds) by rows since the last call."""
        taken, self._sums = self._sums, {}
        return {rows: (count, seconds) for rows, (count, seconds) in taken.items()}
