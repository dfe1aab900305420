"""Time as a parameter: the wall for people, a monotonic clock for intervals."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """Where time comes from. Neither method blocks."""

    def monotonic(self) -> float:
        """Seconds that never go back; the zero is arbitrary."""
        ...

    def now(self) -> datetime:
        """Wall time, aware, in UTC; may jump."""
        ...


class SystemClock:
    """The machine's clocks."""

    def monotonic(self) -> float:
        return time.monotonic()

    def now(self) -> datetime:
        return datetime.now(UTC)


class VirtualClock:
    """A clock that moves when told; both faces move together."""

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self._start = start
        self._elapsed = 0.0

    def monotonic(self) -> float:
        return self._elapsed

    def now(self) -> datetime:
        return self._start + timedelta(seconds=self._elapsed)

    def advance(self, seconds: float) -> None:
        """Moves forward; going back is a ValueError."""
        if seconds < 0:
            raise ValueError(f"seconds must not be negative, got {seconds}")
        self._elapsed += seconds


class WallFromMonotonic:
    """Wall time in milliseconds since the epoch for the hot road: how the two clocks differ is looked at once a second,
    so a jump of the wall clock shows a second late."""

    __slots__ = ("_clock", "_difference_s", "_next_look_s")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._difference_s = 0.0
        self._next_look_s = float("-inf")

    def ms(self, monotonic_s: float) -> int:
        """The wall time at a moment of the monotonic clock that is now or has just been."""
        if monotonic_s >= self._next_look_s:
            self._difference_s = self._clock.now().timestamp() - self._clock.monotonic()
            self._next_look_s = monotonic_s + 1.0
        return int((self._difference_s + monotonic_s) * 1e3)
