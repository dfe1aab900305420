"""What one process of a router tells the others, and asks them."""

from __future__ import annotations

import asyncio
import base64
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from prometheus_client import CollectorRegistry

from partywall.v1 import models_pb2
from router.control.explain import MOST, trace_view
from router.gateway.counters import ModelCounters
from router.gateway.journal import Journal
from router.gateway.statistics import Statistics
from router.processes.answers import Answer, ask, families, socket_of
from router.processes.tally import Totals
from router.settings import Rank

Counters = Mapping[tuple[str, str, int], ModelCounters]


class Siblings:
    """All processes of one router, seen from one of them."""

    def __init__(self, rank: Rank, statistics: Statistics, registry: CollectorRegistry, journal: Journal) -> None:
        self._rank = rank
        self._statistics = statistics
        self._registry = registry
        self._journal = journal

    def answers(self) -> Mapping[str, Answer]:
        """Questions this process answers: who it is, its metrics, its counters and the requests it remembers."""
        return {
            "pid": lambda _: os.getpid(),
            "metrics": lambda _: [os.getpid(), families(self._registry.collect())],
            "counters": self._counters,
            "totals": lambda _: self._totals(),
            "requests": self._requests,
        }

    async def counters(self, tenant_id: str) -> Counters:
        """A tenant's counters over all processes; one that does not answer is left out."""
        sums = {key: ModelCounters(**asdict(c)) for key, c in self._own(tenant_id).items()}
        for answer in await self.ask_others(f"counters {tenant_id}"):
            for model, version, values in answer or ():
                sums.setdefault((tenant_id, model, version), ModelCounters()).add(ModelCounters(**values))
        return sums

    async def totals(self) -> Iterable[tuple[int, Totals]]:
        """What every process counted of each version since it started, by process id."""
        answers = [self._totals(), *(a for a in await self.ask_others("totals") if a)]
        return [(pid, [((row[0], row[1], row[2]), row[3], row[4]) for row in rows]) for pid, rows in answers]

    async def requests(
        self, tenant_id: str, model: str = "", request_id: str = "", *, failed_only: bool = False
    ) -> list[models_pb2.RequestTrace]:
        """The tenant's requests that the other processes remember; of one id, or all."""
        query = json.dumps([tenant_id, model, request_id, failed_only])
        answers = await self.ask_others(f"requests {query}")
        return [models_pb2.RequestTrace.FromString(base64.b64decode(one)) for answer in answers for one in answer or ()]

    async def ask_leader(self, question: str) -> Any:
        """The leading process's answer; None when it is away."""
        folder = self._rank.folder
        return None if folder is None else await ask(socket_of(folder, 0), question)

    async def ask_others(self, question: str) -> list[Any]:
        """One answer of each other process, None of those that are away."""
        rank = self._rank
        if rank.folder is None:
            return []
        others = [socket_of(rank.folder, index) for index in range(rank.count) if index != rank.index]
        return list(await asyncio.gather(*(ask(path, question) for path in others)))

    def _totals(self) -> tuple[int, list[list[Any]]]:
        return os.getpid(), [[*key, c.asked, c.met] for key, c in self._statistics.models.items()]

    def _requests(self, query: str) -> object:
        tenant_id, model, request_id, failed_only = json.loads(query)
        if request_id:
            found = self._journal.find(tenant_id, request_id)
        else:
            found = self._journal.recent(tenant_id, model, failed_only=failed_only, limit=MOST)
        views = (trace_view(one, self._journal.at(one)) for one in found)
        return [base64.b64encode(view.SerializeToString()).decode() for view in views]

    def _own(self, tenant_id: str) -> Counters:
        return {key: c for key, c in self._statistics.models.items() if key[0] == tenant_id}

    def _counters(self, tenant_id: str) -> object:
        return [[model, version, asdict(c)] for (_, model, version), c in self._own(tenant_id).items()]
