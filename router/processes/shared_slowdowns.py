"""Live correction over several processes: the leading one sees every process's batches, judges once, and all obey.

Each process sees the replies to its own requests only. So the leading one asks the others what they saw (`windows`),
adds it to its own, and the others ask it for what came out (`slowdowns`): the factors that admission lengthens service
times by, and the solo latencies that a replica starts from before it has served.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from router.gateway.correction import Corrections
from router.gateway.replicas import Replica
from router.gateway.service_window import Taken, together
from router.processes.answers import Answer

MOST_SILENT = 5
"""Looks without an answer after which a factor is 1 again: its neighbours may have changed."""
MOST_ASKED = 64
"""Replicas without samples that one question names."""


@dataclass(slots=True)
class LeadersSlowdowns:
    """In the leading process. `ask_others` asks all of them; None of those that are away."""

    ask_others: Callable[[str], Awaitable[list[Any]]]
    corrections: Corrections
    _primed: bool = False

    def answers(self) -> Mapping[str, Answer]:
        """`slowdowns ID ID ...` answers all factors, and solo latencies of these placements."""
        return {"slowdowns": self._slowdowns}

    async def windows(self) -> Mapping[str, Taken] | None:
        """What the others saw since they were last asked; None when that is not known.

        It is not known where one is away, and the first time: what lies ready then may be of any length of time.
        """
        answers = await self.ask_others("windows")
        primed, self._primed = self._primed, all(answer is not None for answer in answers)
        if not (primed and self._primed):
            return None
        parts: dict[str, list[Taken]] = {}
        for answer in answers:
            for placement_id, sums in answer.items():
                parts.setdefault(placement_id, []).append({rows: (count, s) for rows, count, s in sums})
        return {placement_id: together(some) for placement_id, some in parts.items()}

    def _slowdowns(self, asked: str) -> object:
        solos = {name: self.corrections.solos(name) for name in asked.split()[:MOST_ASKED]}
        return {"factors": self.corrections.factors(), "solos": {k: list(v.items()) for k, v in solos.items() if v}}


@dataclass(slots=True)
class FollowersSlowdowns:
    """In every other process."""

    ask_leader: Callable[[str], Awaitable[Any]]
    replicas: Callable[[], Iterable[Replica]]
    period_s: float
    _silent: int = 0

    def answers(self) -> Mapping[str, Answer]:
        """`windows` answers what came since the last time, by placement: [rows, batches, seconds]."""
        return {"windows": lambda _: self._windows()}

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            await asyncio.sleep(self.period_s)
            await self.follow()

    async def follow(self) -> None:
        """One question to the leading process, and what follows from it."""
        new = [r.placement.id for r in self.replicas() if not r.service.known][:MOST_ASKED]
        answer = await self.ask_leader(" ".join(["slowdowns", *new]))
        self._silent = 0 if answer else self._silent + 1
        if not answer and self._silent < MOST_SILENT:
            return
        factors = answer["factors"] if answer else {}
        solos = answer["solos"] if answer else {}
        for replica in self.replicas():
            name = replica.placement.id
            replica.slowdown_factor = factors.get(name, 1.0)
            if name in solos and not replica.service.known:
                replica.service.seed(dict(solos[name]))

    def _windows(self) -> object:
        taken = ((r.placement.id, r.window.take()) for r in self.replicas())
        return {name: [[rows, *sums] for rows, sums in window.items()] for name, window in taken if window}
