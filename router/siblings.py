"""What one process of a router tells the others, and asks them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from dataclasses import asdict

from prometheus_client import CollectorRegistry

from router.answers import Answer, ask, families, socket_of
from router.gateway.statistics import ModelCounters, Statistics
from router.settings import Rank

Counters = Mapping[tuple[str, str, int], ModelCounters]


class Siblings:
    """All processes of one router, seen from one of them."""

    def __init__(self, rank: Rank, statistics: Statistics, registry: CollectorRegistry) -> None:
        self._rank = rank
        self._statistics = statistics
        self._registry = registry

    def answers(self) -> Mapping[str, Answer]:
        """Questions this process answers: who it is, its metrics, and its counters of one tenant."""
        return {
            "pid": lambda _: os.getpid(),
            "metrics": lambda _: [os.getpid(), families(self._registry.collect())],
            "counters": self._counters,
        }

    async def counters(self, tenant_id: str) -> Counters:
        """A tenant's counters over all processes; one that does not answer is left out."""
        sums = {key: ModelCounters(**asdict(c)) for key, c in self._own(tenant_id).items()}
        rank = self._rank
        if rank.folder is None:
            return sums
        others = [socket_of(rank.folder, index) for index in range(rank.count) if index != rank.index]
        for answer in await asyncio.gather(*(ask(path, f"counters {tenant_id}") for path in others)):
            for model, version, values in answer or ():
                sums.setdefault((tenant_id, model, version), ModelCounters()).add(ModelCounters(**values))
        return sums

    def _own(self, tenant_id: str) -> Counters:
        return {key: c for key, c in self._statistics.models.items() if key[0] == tenant_id}

    def _counters(self, tenant_id: str) -> object:
        return [[model, version, asdict(c)] for (_, model, version), c in self._own(tenant_id).items()]
