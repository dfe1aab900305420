"""Metrics of several processes added up, so that counters never fall when one of them is replaced."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from typing import TypeAlias

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from router.processes.answers import Family

_ONLY_GROW = ("counter", "histogram")
REQUESTS = "partywall_requests"

Key: TypeAlias = tuple[str, tuple[tuple[str, str], ...]]
"""Sample name and sorted labels."""


class Totals:
    """The last word of each process, and what those that are gone had counted. Thread-safe.

    Samples of the same name and labels are added: counts and histograms of requests are of whoever served them, and
    gauges of agents and replicas come from the leading process alone. What a process counted between the last look at
    it and its death is not known and is missing.
    """

    def __init__(self, count: int) -> None:
        self._lock = threading.Lock()
        self._seen: list[dict[Key, float]] = [{} for _ in range(count)]
        self._gone: list[dict[Key, float]] = [{} for _ in range(count)]
        self._pids = [0] * count
        self._ended = [0] * count
        self._kinds: dict[str, tuple[str, str, dict[Key, None]]] = {}

    def started(self, index: int, pid: int) -> None:
        """A new process `index` runs."""
        with self._lock:
            self._pids[index] = pid

    def update(self, index: int, pid: int, seen: Sequence[Family]) -> None:
        """Takes what process `index` counts now. The word of one that has ended comes too late and is dropped."""
        with self._lock:
            if self._pids[index] == pid:
                self._seen[index] = self._read(seen)

    def lost(self, index: int) -> None:
        """Process `index` has ended; what it counted stays."""
        with self._lock:
            self._ended[index] += 1
            self._pids[index] = 0
            self._retire(index)

    def collect(self) -> Iterable[Metric]:
        """All metrics, added up, and those about the processes themselves."""
        with self._lock:
            sums: dict[Key, float] = {}
            for part in (*self._seen, *self._gone):
                for key, value in part.items():
                    sums[key] = sums.get(key, 0.0) + value
            out = []
            for name, (documentation, kind, keys) in self._kinds.items():
                metric = Metric(name, documentation, kind)
                for key in [key for key in keys if key not in sums]:
                    # A gauge of what is gone: its replica, or its process.
                    del keys[key]
                for key in keys:
                    metric.add_sample(key[0], dict(key[1]), sums[key])
                out.append(metric)
            return [*out, *self._about_processes()]

    def _about_processes(self) -> Iterable[Metric]:
        up = GaugeMetricFamily("partywall_router_process_up", "Whether the process answers", labels=("process",))
        ended = CounterMetricFamily("partywall_router_process_ended", "Processes that ended", labels=("process",))
        served = CounterMetricFamily(
            "partywall_router_process_requests", "Requests by the process that took them", labels=("process",)
        )
        for index, (seen, gone) in enumerate(zip(self._seen, self._gone, strict=True)):
            labels = [str(index)]
            up.add_metric(labels, int(self._pids[index] != 0))
            ended.add_metric(labels, self._ended[index])
            counts = (v for part in (seen, gone) for (name, _), v in part.items() if name == f"{REQUESTS}_total")
            served.add_metric(labels, sum(counts))
        return (up, ended, served)

    def _read(self, seen: Sequence[Family]) -> dict[Key, float]:
        values: dict[Key, float] = {}
        for family in seen:
            kind = self._kinds.setdefault(family["name"], (family["documentation"], family["type"], {}))
            for name, labels, value in family["samples"]:
                key = (name, tuple(sorted(labels.items())))
                values[key] = value
                kind[2][key] = None
        return values

    def _retire(self, index: int) -> None:
        growing = {key for _, kind, keys in self._kinds.values() if kind in _ONLY_GROW for key in keys}
        gone = self._gone[index]
        for key, value in self._seen[index].items():
            if key in growing:
                gone[key] = gone.get(key, 0.0) + value
        self._seen[index] = {}
