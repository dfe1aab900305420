"""Requests that were asked and met, over all processes of a router: what the leading one plans by.

Each process counts from its own start. A process that does not answer adds nothing for that time, and one that starts
anew counts from zero again: the sums never go back and never jump.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import TypeAlias

Key: TypeAlias = tuple[str, str, int]
"""Tenant id, model, version."""
Totals: TypeAlias = Iterable[tuple[Key, int, int]]
"""(key, asked, met) since the process started."""


@dataclass(slots=True)
class Sum:
    """One version over all processes; satisfies `router.control.planning.Counters`."""

    asked: int = 0
    met: int = 0


class Tally:
    """`refresh` asks everybody; reading is a dictionary look-up."""

    def __init__(self, ask: Callable[[], Awaitable[Iterable[tuple[int, Totals]]]]) -> None:
        """Args: `ask` answers (process id, its totals) of each process that is there."""
        self._ask = ask
        self._sums: dict[Key, Sum] = {}
        self._last: dict[int, dict[Key, tuple[int, int]]] = {}

    async def refresh(self) -> None:
        """Takes over what was counted since the last time."""
        for pid, totals in await self._ask():
            known = self._last.get(pid)
            fresh = {key: (asked, met) for key, asked, met in totals}
            for key, (asked, met) in fresh.items():
                # What a process had counted before it was first asked is not load of now.
                before = (asked, met) if known is None else known.get(key, (0, 0))
                total = self._sums.setdefault(key, Sum())
                total.asked += max(0, asked - before[0])
                total.met += max(0, met - before[1])
            self._last[pid] = fresh

    def __call__(self, tenant_id: str, model: str, version: int) -> Sum | None:
        return self._sums.get((tenant_id, model, version))
