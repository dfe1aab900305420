"""The numbers that one process counts: per version for `ModelStatistics`, per tenant and model for Prometheus."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from prometheus_client.utils import floatToGoString

_LATENCY_BUCKETS_S = (
    0.001,
    0.002,
    0.005,
    0.01,
    0.02,
    0.05,
    0.1,
    0.2,
    0.5,
    1.0,
    2.0,
    5.0,
    10.0,
    30.0,
)
_BATCH_BUCKETS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)


@dataclass(slots=True)
class ModelCounters:
    """What `ModelStatistics` answers for one version; durations in nanoseconds."""

    success: int = 0
    success_ns: int = 0
    failed: int = 0
    met: int = 0
    """Answered within the objective."""
    unserved: int = 0
    """Ended with an error that more or quicker replicas could have prevented."""
    failed_ns: int = 0
    queue_ns: int = 0
    compute_ns: int = 0
    executions: float = 0.0
    rows: int = 0
    last_ms: int = 0

    @property
    def asked(self) -> int:
        """Requests that could have been served: not those that were wrong or beyond the caller's own limit."""
        return self.success + self.unserved

    def add(self, other: ModelCounters) -> None:
        """Adds what another process counted."""
        for name in _SUMMED:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.last_ms = max(self.last_ms, other.last_ms)


_SUMMED = (
    "success",
    "success_ns",
    "failed",
    "failed_ns",
    "queue_ns",
    "compute_ns",
    "executions",
    "rows",
    "met",
    "unserved",
)


class Histogram:
    """Counts by upper bound (the last one is infinity) and the sum of what was seen."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def buckets(self) -> list[tuple[str, float]]:
        """(upper bound, requests up to it), as the exposition format wants them."""
        names = [str(floatToGoString(bound)) for bound in (*self.bounds, float("inf"))]  # type: ignore[no-untyped-call]
        return list(zip(names, accumulate(self.counts), strict=True))


def _latency() -> Histogram:
    return Histogram(_LATENCY_BUCKETS_S)


@dataclass(slots=True)
class Cell:
    """One (tenant, model)."""

    latency: Histogram = field(default_factory=_latency)
    queue: Histogram = field(default_factory=_latency)
    batch: Histogram = field(default_factory=lambda: Histogram(_BATCH_BUCKETS))
    met: int = 0
    missed: int = 0
    outcomes: dict[str, int] = field(default_factory=lambda: {"OK": 0})
