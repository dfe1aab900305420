"""What a soak must show, from what the client saw, what the worker executed, and memory over time. Pure."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

MOST_SLOPE_MIB_PER_MIN = 0.5
"""Growth of a process's own memory, over the second half of the run, from which it no longer counts as flat."""


WINDOWS, LEAST_WINDOW_S = 10, 25.0
"""Parts of the second half whose least size counts, and their least length: free heap goes back every ten seconds
(`partywall.memory`), so a shorter part may have no floor in it. Short runs have fewer parts."""


class Seen(enum.IntEnum):
    """What the caller of one request saw."""

    OK = 1
    REFUSED = 2
    """An error that says nothing was executed."""
    UNKNOWN = 3
    """Cancelled, reset, or past its deadline: executed once or not at all."""
    WRONG = 4
    """An answer of another request, or with another payload."""
    LOST = 5
    """Neither an answer nor an error long after the deadline."""


@dataclass(frozen=True, slots=True)
class Account:
    """The ledger against what callers saw; request numbers start at 1."""

    sent: int
    seen: Mapping[str, int]
    executed: int
    executed_twice: int
    answered_unexecuted: int
    refused_executed: int

    @property
    def ok(self) -> bool:
        """Nothing lost, nothing twice, nothing answered that was not executed, nothing executed that was refused."""
        faults = self.executed_twice + self.answered_unexecuted + self.refused_executed
        return not faults and not self.seen.get("LOST") and not self.seen.get("WRONG")


def settle(seen: npt.NDArray[np.uint8], executed: npt.NDArray[np.int64]) -> Account:
    """Both by request number, element 0 unused."""
    numbers = slice(1, len(seen))
    saw, ran = seen[numbers], executed[numbers]
    return Account(
        sent=int((saw > 0).sum()),
        seen={one.name: count for one in Seen if (count := int((saw == one).sum()))},
        executed=int((ran > 0).sum()),
        executed_twice=int((ran > 1).sum()),
        answered_unexecuted=int(((saw == Seen.OK) & (ran == 0)).sum()),
        refused_executed=int(((saw == Seen.REFUSED) & (ran > 0)).sum()),
    )


@dataclass(frozen=True, slots=True)
class Growth:
    """One process's own memory: its floor at the middle and the end of the run, and that floor's slope."""

    role: str
    middle_mib: float
    end_mib: float
    slope_mib_per_min: float

    @property
    def flat(self) -> bool:
        return self.slope_mib_per_min <= MOST_SLOPE_MIB_PER_MIN


def growth(role: str, at_s: Sequence[float], mib: Sequence[float]) -> Growth:
    """Least squares through the floor of the second half: the first fills caches and arenas, and what waits in a burst
    lifts the peaks, while a leak lifts the floor. The floor is the least of each tenth."""
    half = len(at_s) // 2
    times, sizes = np.asarray(at_s[half:]), np.asarray(mib[half:])
    windows = max(2, min(WINDOWS, int((at_s[-1] - at_s[half]) / LEAST_WINDOW_S)))
    parts = [part for part in np.array_split(np.arange(len(times)), windows) if len(part)]
    middles = [float(times[part].mean()) for part in parts]
    floors = [float(sizes[part].min()) for part in parts]
    slope = float(np.polyfit(middles, floors, 1)[0]) * 60.0 if len(parts) > 1 else float("nan")
    return Growth(role, floors[0], floors[-1], slope)
