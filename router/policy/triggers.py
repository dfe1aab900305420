"""When to plan again: at once when something breaks or an objective is at risk, slowly when something could be saved.

Splitting is fast and merging slow on purpose: a missed objective costs a tenant, an idle share costs only the operator.
Attainment is watched over a short and a long window together (burn rates, Google SRE workbook, ch. 5), so that neither
a single late request nor a long-forgotten bad hour decides. Pure: time is a parameter.
"""

from __future__ import annotations

import enum
from collections import deque
from dataclasses import dataclass


class Trigger(enum.StrEnum):
    """Why a plan is made."""

    AT_RISK = "at_risk"
    SAVING = "saving"
    PERIODIC = "periodic"


@dataclass(frozen=True, slots=True)
class TriggerSettings:
    """`burn` is how many times faster than allowed misses may come, over both windows, before a split."""

    target: float = 0.99
    short_s: float = 5.0
    long_s: float = 60.0
    burn: float = 2.0
    least_requests: int = 20
    hold_s: float = 120.0


class Attainment:
    """One model's requests in time, in one-second bins."""

    def __init__(self, settings: TriggerSettings | None = None) -> None:
        self._settings = settings or TriggerSettings()
        self._bins: deque[tuple[int, int, int]] = deque()

    def observe(self, now_s: float, in_time: int, total: int) -> None:
        """Answers since the last call; refused requests count as late."""
        second = int(now_s)
        if self._bins and self._bins[-1][0] == second:
            _, held_in_time, held_total = self._bins.pop()
            in_time, total = in_time + held_in_time, total + held_total
        self._bins.append((second, in_time, total))
        while self._bins[0][0] < second - self._settings.long_s:
            self._bins.popleft()

    def at_risk(self, now_s: float) -> bool:
        """Whether misses come faster than allowed in the short and the long window."""
        settings = self._settings
        return all(self._burns(now_s, window_s) for window_s in (settings.short_s, settings.long_s))

    def _burns(self, now_s: float, window_s: float) -> bool:
        recent = [(good, total) for second, good, total in self._bins if second >= now_s - window_s]
        total = sum(count for _, count in recent)
        missed = total - sum(good for good, _ in recent)
        settings = self._settings
        return total >= settings.least_requests and missed > settings.burn * (1 - settings.target) * total


class SavingWatch:
    """A saving is taken only when it was there, at the bound, for `hold_s` without a break."""

    def __init__(self, settings: TriggerSettings | None = None) -> None:
        self._hold_s = (settings or TriggerSettings()).hold_s
        self._since_s: float | None = None

    def observe(self, now_s: float, devices_saved: float) -> bool:
        """The saving predicted now (whole devices, upper bounds of interference); True: take it."""
        if devices_saved < 1:
            self._since_s = None
            return False
        if self._since_s is None:
            self._since_s = now_s
        return now_s - self._since_s >= self._hold_s
