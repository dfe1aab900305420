"""What happened to each planned model since the planner last looked, from the request counters and the replicas."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from partywall.domain.models import Version, VersionState
from router.control.catalog import ModelEntry
from router.control.scene import Scene
from router.gateway.replicas import Replica
from router.policy.scaling import Observed


class Counters(Protocol):
    """What was counted of one version since the router started."""

    @property
    def asked(self) -> int:
        """Requests that could have been served: not those that were wrong or beyond the caller's own limit."""
        ...

    @property
    def met(self) -> int:
        """Requests answered within the objective."""
        ...


Counts = Callable[[str, str, int], Counters | None]
"""(tenant id, model name, version) -> its counters, None before the first request."""


class Observer:
    """Remembers the counters of its last look."""

    def __init__(self, scene: Scene, counts: Counts) -> None:
        self._scene = scene
        self._counts = counts
        self._seen: dict[str, tuple[int, int, int]] = {}

    def planned(self) -> list[tuple[ModelEntry, Version]]:
        """Models with an objective whose live version serves."""
        return [
            (entry, version)
            for entry in self._scene.catalog.models()
            if (version := entry.live) is not None
            and version.resident
            and version.state is VersionState.READY
            and version.manifest.slo_ms
        ]

    def peek(self) -> dict[str, Observed]:
        """As `look`; what came counts at the next look all the same."""
        seen = dict(self._seen)
        try:
            return self.look()
        finally:
            self._seen = seen

    def look(self) -> dict[str, Observed]:
        """Each planned model since the last look, by model id."""
        standing: dict[tuple[str, int], list[Replica]] = {}
        for replica in self._scene.membership.replica_runtimes():
            key = (replica.placement.model_id, replica.placement.version)
            standing.setdefault(key, []).append(replica)
        out: dict[str, Observed] = {}
        for entry, version in self.planned():
            replicas = standing.get((entry.model.id, version.number), [])
            counters = self._counts(entry.model.tenant_id, entry.model.name, version.number)
            asked, met = (counters.asked, counters.met) if counters is not None else (0, 0)
            before = self._seen.get(entry.model.id)
            # Another live version counts from zero; what it had before it was live is not load of this second.
            known = before is not None and before[0] == version.number
            arrivals, in_time = (asked - before[1], met - before[2]) if known and before is not None else (0, 0)
            self._seen[entry.model.id] = (version.number, asked, met)
            ready = [r for r in replicas if r.ready]
            out[entry.model.id] = Observed(
                max(0, arrivals),
                max(0, in_time),
                version.manifest.slo_ms,
                batch_s(ready),
                max(1, entry.model.replicas),
                len(ready),
            )
        return out


def batch_s(ready: list[Replica]) -> dict[int, float]:
    """Upper bounds of service times by requests in a batch, of the slowest replica; empty before the first batch."""
    known = [r for r in ready if r.service.known]
    if not known:
        return {}
    # Replicas count in rows, load comes in requests.
    each = rows_per_request(known)
    most = max(1, min(r.max_batch for r in known))
    sizes = [size for size in (1, 2, 4, 8, 16, 32, 64) if size * each <= most] or [1]
    return {size: max(r.service.upper_s(max(1, round(size * each))) for r in known) for size in sizes}


def rows_per_request(ready: list[Replica]) -> float:
    """Of the replica with the largest; 1.0 before the first batch."""
    return max([1.0, *(r.rows_per_request for r in ready)])
