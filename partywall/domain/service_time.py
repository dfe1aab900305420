"""How long a batch takes, learned from batches: router and agent predict with the same object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

_SMOOTHING = 0.2
_DEVIATIONS = 2.0
_MOST_ABOVE = 4.0
STALE_S = 1.0
"""After so long without a batch an estimate may be tried whatever it says, so that it can improve."""


@dataclass(slots=True)
class _Bucket:
    mean_s: float
    deviation_s: float
    rows: float


class ServiceTime:
    """Service time by batch size: one smoothed mean and mean deviation per power of two of rows.

    The smoothing is that of Jacobson's round-trip estimator (SIGCOMM'88): an exponentially weighted mean and mean
    absolute deviation; the upper bound is mean + 2 deviations. Sizes not seen yet are scaled from the nearest one seen:
    linearly upwards, and not at all downwards, which is pessimistic both ways. A batch counts as at most five times the
    mean of its size: a machine that stood still once must not have every deadline after it refused, and what stays slow
    is learned within a few batches.
    """

    __slots__ = ("_buckets", "last_sample_s")

    def __init__(self) -> None:
        self._buckets: dict[int, _Bucket] = {}
        self.last_sample_s = float("-inf")

    @property
    def known(self) -> bool:
        return bool(self._buckets)

    def seed(self, expected: Mapping[int, float]) -> None:
        """Takes seconds by rows, measured elsewhere, for sizes of which nothing was executed yet."""
        for rows, seconds in expected.items():
            self._buckets.setdefault(max(1, rows).bit_length(), _Bucket(seconds, 0.0, rows))

    def observe(self, rows: int, service_s: float, now_s: float) -> None:
        """Takes one executed batch of `rows` rows that took `service_s` seconds."""
        self.last_sample_s = now_s
        key = max(1, rows).bit_length()
        bucket = self._buckets.get(key)
        if bucket is None:
            self._buckets[key] = _Bucket(service_s, 0.0, rows)
            return
        error = service_s - bucket.mean_s
        if bucket.mean_s > 0.0:
            error = min(error, _MOST_ABOVE * bucket.mean_s)
        bucket.mean_s += _SMOOTHING * error
        bucket.deviation_s += _SMOOTHING * (abs(error) - bucket.deviation_s)
        bucket.rows += _SMOOTHING * (rows - bucket.rows)

    def mean_s(self, rows: int) -> float:
        """Expected seconds for a batch of `rows` rows; 0.0 while nothing is known."""
        return self._predict(rows, 0.0)

    def upper_s(self, rows: int) -> float:
        """Upper bound in seconds for a batch of `rows` rows; 0.0 while nothing is known."""
        return self._predict(rows, _DEVIATIONS)

    def _predict(self, rows: int, deviations: float) -> float:
        if not self._buckets:
            return 0.0
        key = max(1, rows).bit_length()
        bucket = self._buckets.get(key)
        if bucket is None:
            nearest = min(self._buckets, key=lambda k: (abs(k - key), k))
            bucket = self._buckets[nearest]
        value = bucket.mean_s + deviations * bucket.deviation_s
        if rows > bucket.rows:
            value *= rows / max(1.0, bucket.rows)
        return value
