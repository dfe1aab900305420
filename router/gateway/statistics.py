"""Counters per tenant and model: for `ModelStatistics` and for Prometheus, from the same observations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from partywall.errors import PartywallError
from partywall.v1 import agent_link_pb2

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
MAX_TENANT_LABELS = 200
"""Tenants beyond this many share the label `other`: label sets must stay bounded."""


@dataclass(slots=True)
class ModelCounters:
    """What `ModelStatistics` answers for one version; durations in nanoseconds."""

    success: int = 0
    success_ns: int = 0
    failed: int = 0
    failed_ns: int = 0
    queue_ns: int = 0
    compute_ns: int = 0
    executions: float = 0.0
    rows: int = 0
    last_ms: int = 0


class Statistics:
    """Observes finished requests. All methods are cheap: they run once per request."""

    def __init__(self, registry: CollectorRegistry) -> None:
        labels = ("tenant", "model")
        self._requests = Counter(
            "partywall_requests",
            "Requests by outcome (OK or the reason of the refusal)",
            (*labels, "outcome"),
            registry=registry,
        )
        self._latency = Histogram(
            "partywall_request_seconds",
            "Time from the request's arrival at the router to its answer, served requests",
            labels,
            buckets=_LATENCY_BUCKETS_S,
            registry=registry,
        )
        self._queue = Histogram(
            "partywall_queue_seconds",
            "Time a request waited at the agent",
            labels,
            buckets=_LATENCY_BUCKETS_S,
            registry=registry,
        )
        self._batch = Histogram(
            "partywall_batch_requests",
            "Requests per executed batch",
            labels,
            buckets=(1, 2, 4, 8, 16, 32, 64),
            registry=registry,
        )
        self._slo = Counter(
            "partywall_slo_requests",
            "Requests of models with an objective, by whether they met it",
            (*labels, "met"),
            registry=registry,
        )
        self.in_flight = Gauge("partywall_in_flight_requests", "Requests inside the router", registry=registry)
        self._bound: dict[tuple[str, str], tuple[Any, ...]] = {}
        self._outcomes: dict[tuple[str, str, str], Any] = {}
        self._tenants: set[str] = set()
        self.models: dict[tuple[str, str, int], ModelCounters] = {}

    def served(
        self,
        tenant_id: str,
        tenant: str,
        model: str,
        version: int,
        elapsed_s: float,
        reply: agent_link_pb2.InferReply,
        slo_ms: int,
        now_ms: int,
    ) -> None:
        """One answered request."""
        latency, queue, batch, ok, met, missed = self._children(tenant, model)
        ok.inc()
        latency.observe(elapsed_s)
        queue.observe(reply.queue_us / 1e6)
        batch.observe(reply.batch_requests)
        if slo_ms:
            (met if elapsed_s * 1e3 <= slo_ms else missed).inc()
        counters = self._counters(tenant_id, model, version)
        counters.success += 1
        counters.success_ns += int(elapsed_s * 1e9)
        counters.queue_ns += reply.queue_us * 1000
        counters.compute_ns += reply.service_us * 1000
        counters.executions += 1.0 / max(1, reply.batch_requests)
        counters.rows += 1
        counters.last_ms = now_ms

    def refused(self, tenant: str, model: str, error: PartywallError) -> None:
        """One request that ended with an error."""
        key = (self._label(tenant), model, error.reason.value)
        child = self._outcomes.get(key)
        if child is None:
            child = self._outcomes[key] = self._requests.labels(*key)
        child.inc()

    def failed(self, tenant_id: str, model: str, version: int, elapsed_s: float) -> None:
        """One request that reached a version and ended with an error."""
        counters = self._counters(tenant_id, model, version)
        counters.failed += 1
        counters.failed_ns += int(elapsed_s * 1e9)

    def _counters(self, tenant_id: str, model: str, version: int) -> ModelCounters:
        key = (tenant_id, model, version)
        counters = self.models.get(key)
        if counters is None:
            counters = self.models[key] = ModelCounters()
        return counters

    def _children(self, tenant: str, model: str) -> tuple[Any, ...]:
        key = (tenant, model)
        bound = self._bound.get(key)
        if bound is None:
            label = self._label(tenant)
            bound = self._bound[key] = (
                self._latency.labels(label, model),
                self._queue.labels(label, model),
                self._batch.labels(label, model),
                self._requests.labels(label, model, "OK"),
                self._slo.labels(label, model, "true"),
                self._slo.labels(label, model, "false"),
            )
        return bound

    def _label(self, tenant: str) -> str:
        if tenant in self._tenants:
            return tenant
        if len(self._tenants) >= MAX_TENANT_LABELS:
            return "other"
        self._tenants.add(tenant)
        return tenant
