"""The last requests of each tenant: where they went, what was predicted, what it took, why they were refused.

Bounded rings in memory: names, sizes and times only, nothing of a request's content. Served and failed requests have
rings of their own, so that a flood of refusals does not wash away what was served.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from partywall.clock import Clock
from partywall.errors import PartywallError
from router.gateway.replicas import Reply

KEPT_PER_TENANT = 256
"""Requests kept of each of the two kinds."""
MAX_TENANTS = 1000
"""The tenant that was silent longest loses its rings beyond this many."""
MAX_ID_CHARACTERS = 128
MAX_MESSAGE_CHARACTERS = 500
OK = "OK"


@dataclass(slots=True)
class Trace:
    """One request while it is on its road, and afterwards. Times in seconds; `started_s` on the router's clock.

    `predicted_s` is the upper bound that admitted it, from its arrival on; `replica` is the placement that answered
    (or failed) last. `attempts` counts tries, `hedged` tells that a second replica was asked while the first worked.
    """

    id: str
    model: str
    started_s: float
    version: int = 0
    rows: int = 0
    budget_s: float = 0.0
    predicted_s: float = 0.0
    replica: str = ""
    attempts: int = 0
    hedged: bool = False
    actual_s: float = 0.0
    queue_us: int = 0
    service_us: int = 0
    batch_requests: int = 0
    batch_rows: int = 0
    outcome: str = OK
    message: str = ""
    slo_ms: int = 0


@dataclass(slots=True)
class _Rings:
    served: deque[Trace] = field(default_factory=lambda: deque(maxlen=KEPT_PER_TENANT))
    failed: deque[Trace] = field(default_factory=lambda: deque(maxlen=KEPT_PER_TENANT))


class Journal:
    """Rings by tenant id. `served` and `failed` run once per request."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._tenants: dict[str, _Rings] = {}

    def served(self, tenant_id: str, trace: Trace, reply: Reply, actual_s: float) -> None:
        """An answered request."""
        trace.actual_s = actual_s
        trace.queue_us, trace.service_us = reply.queue_us, reply.service_us
        trace.batch_requests, trace.batch_rows = reply.batch_requests, reply.batch_rows
        self._rings(tenant_id).served.append(trace)

    def failed(self, tenant_id: str, trace: Trace, error: PartywallError, actual_s: float) -> None:
        """A refused or failed request."""
        trace.actual_s, trace.outcome, trace.message = (
            actual_s,
            error.reason.value,
            error.message[:MAX_MESSAGE_CHARACTERS],
        )
        self._rings(tenant_id).failed.append(trace)

    def recent(self, tenant_id: str, model: str = "", *, failed_only: bool = False, limit: int = 50) -> Sequence[Trace]:
        """The tenant's last requests, newest first; of one model, or only those that were not served."""
        rings = self._tenants.get(tenant_id)
        if rings is None:
            return []
        chosen = [*rings.failed] if failed_only else [*rings.served, *rings.failed]
        mine = [trace for trace in chosen if not model or trace.model == model]
        return sorted(mine, key=lambda trace: trace.started_s, reverse=True)[:limit]

    def find(self, tenant_id: str, request_id: str) -> Sequence[Trace]:
        """The tenant's requests of that id, newest first: a client may give the same id twice."""
        return [t for t in self.recent(tenant_id, limit=2 * KEPT_PER_TENANT) if t.id == request_id[:MAX_ID_CHARACTERS]]

    def at(self, trace: Trace) -> datetime:
        """When it arrived."""
        return self._clock.now() - timedelta(seconds=self._clock.monotonic() - trace.started_s)

    def forget(self, tenant_id: str) -> None:
        """The tenant is gone."""
        self._tenants.pop(tenant_id, None)

    def _rings(self, tenant_id: str) -> _Rings:
        rings = self._tenants.get(tenant_id)
        if rings is None:
            if len(self._tenants) >= MAX_TENANTS:
                del self._tenants[min(self._tenants, key=lambda name: _last_s(self._tenants[name]))]
            rings = self._tenants[tenant_id] = _Rings()
        return rings


def _last_s(rings: _Rings) -> float:
    return max((ring[-1].started_s for ring in (rings.served, rings.failed) if ring), default=float("-inf"))
