"""What scheduling needs to know of a model: how long a batch takes, how much memory and load time it costs."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

from partywall.errors import InvalidInput

LINEAR_MAX_BATCH = 16
"""Largest batch of a model without measured batch latencies (Clockwork's and most servers' default maximum)."""


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model as the scheduler sees it. `service_s[b - 1]` is the time of a batch of b on a whole device."""

    name: str
    weights_gb: float
    service_s: tuple[float, ...]
    objective_s: float

    def __post_init__(self) -> None:
        if not self.service_s or min(self.service_s) <= 0:
            raise InvalidInput(f"model {self.name!r}: latency_ms must be above zero", fields={"field": "latency_ms"})
        if self.weights_gb < 0:
            raise InvalidInput(f"model {self.name!r}: weights_gb must not be negative", fields={"field": "weights_gb"})
        if self.objective_s <= 0:
            raise InvalidInput(f"model {self.name!r}: the objective must be above zero", fields={"field": "slo_scale"})

    @property
    def max_batch(self) -> int:
        return len(self.service_s)

    @property
    def gains_by_batches(self) -> bool:
        """Whether a larger batch is cheaper per request."""
        return any(t < (b + 1) * self.service_s[0] * (1 - 1e-9) for b, t in enumerate(self.service_s))


@dataclass(frozen=True, slots=True)
class Traffic:
    """What a plan may know of a model's arrivals: mean rate and the coefficient of variation of the gaps."""

    rate_per_s: float
    cv: float = 1.0


def batch_times_s(latency_ms: float, by_batch: Mapping[int, float] | None = None) -> tuple[float, ...]:
    """Seconds of batches 1, 2, ...: measured sizes, straight lines between them; without any, b x `latency_ms`.

    A batch larger than the largest measured one is not run.
    """
    if not by_batch:
        return tuple(b * latency_ms / 1000 for b in range(1, LINEAR_MAX_BATCH + 1))
    known = {1: latency_ms, **by_batch}
    sizes = sorted(known)
    if sizes[0] < 1:
        raise InvalidInput(f"latency_by_batch has a batch of {sizes[0]}; sizes start at 1", fields={"field": "batch"})
    times = [known[1]]
    for low, high in itertools.pairwise(sizes):
        step = (known[high] - known[low]) / (high - low)
        times += [known[low] + step * (b - low) for b in range(low + 1, high + 1)]
    return tuple(t / 1000 for t in times)
