"""How busy the machine was with other things: figures taken beside other work deserve a word of caution."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU seconds since boot: of the whole machine, and of this process with all its living descendants."""

    at_s: float
    busy_s: float
    own_s: float

    def others_since(self, before: Usage) -> float:
        """Share of the machine's cores that others used since then, 0 to 1."""
        others_s = (self.busy_s - before.busy_s) - (self.own_s - before.own_s)
        return max(0.0, others_s / ((self.at_s - before.at_s) * (os.cpu_count() or 1)))


def usage() -> Usage:
    """Reads /proc now."""
    fields = (_PROC / "stat").read_text().split("\n", 1)[0].split()
    user, nice, system, _idle, _wait, irq, soft_irq, steal = (int(f) for f in fields[1:9])
    busy_s = (user + nice + system + irq + soft_irq + steal) / _TICKS_PER_S
    return Usage(time.monotonic(), busy_s, _own_s())


def _own_s() -> float:
    parents: dict[int, int] = {}
    ticks: dict[int, int] = {}
    for folder in _PROC.iterdir():
        if not folder.name.isdigit():
            continue
        try:
            # The name in brackets may hold spaces: count from behind it.
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        pid = int(folder.name)
        parents[pid], ticks[pid] = int(fields[1]), int(fields[11]) + int(fields[12])
    own = os.getpid()
    return sum(t for pid, t in ticks.items() if _descends(pid, own, parents)) / _TICKS_PER_S


def _descends(pid: int, ancestor: int, parents: dict[int, int]) -> bool:
    while pid > 1:
        if pid == ancestor:
            return True
        pid = parents.get(pid, 0)
    return False
