"""What agents say has happened: counted at once, written down by the reconcile loop."""

from __future__ import annotations

from collections import deque

from prometheus_client import CollectorRegistry, Counter

from partywall.clock import Clock
from partywall.domain.events import Event, EventName
from partywall.v1 import agent_link_pb2 as link
from router.control.catalog import Catalog
from router.control.scene import new_id

HELD = 200
"""Events that wait for the store; beyond them the oldest are only counted."""


class EventLog:
    """Takes events without waiting; `write` stores them. While the store is away they wait here."""

    def __init__(self, catalog: Catalog, clock: Clock, registry: CollectorRegistry | None = None) -> None:
        self._catalog = catalog
        self._clock = clock
        self._waiting: deque[Event] = deque(maxlen=HELD)
        self._counter = Counter(
            "partywall_events",
            "Faults, lost walls and stuck batches",
            ("kind", "node"),
            registry=registry if registry is not None else CollectorRegistry(),
        )

    def note(self, node: str, event: link.AgentEvent) -> None:
        """An agent's event; its kind is a label only where it is one of ours."""
        known = event.kind in set(EventName)
        self._counter.labels(event.kind if known else "other", node).inc()
        self._waiting.append(
            Event(
                new_id("event"),
                self._clock.now(),
                event.kind[:64],
                node,
                event.message[:2000],
                event.device_id[:128],
                event.placement_id[:64],
                event.code,
            )
        )

    async def write(self) -> None:
        """Stores what waits.

        Raises:
            PartywallError: The store does not answer; nothing is forgotten.
        """
        if not self._waiting:
            return
        batch = list(self._waiting)
        async with self._catalog.transaction() as tx:
            for event in batch:
                await tx.insert(event)
        for event in batch:
            if self._waiting and self._waiting[0] is event:
                self._waiting.popleft()
