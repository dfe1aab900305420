"""Counters per tenant and model: for `ModelStatistics` and for Prometheus, from the same observations.

The cells are plain numbers that the loop's thread alone changes; they become metrics when somebody asks. The client
library's own counters take a lock for each of a dozen steps, on every request.
"""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from partywall.errors import PartywallError, Reason
from router.gateway.counters import Cell, ModelCounters
from router.gateway.replicas import Reply

_OF_CAPACITY = frozenset(
    {
        Reason.DEADLINE_UNREACHABLE,
        Reason.QUEUE_FULL,
        Reason.DEADLINE_EXCEEDED,
        Reason.NO_REPLICA,
        Reason.WORKER_DIED,
        Reason.AGENT_LOST,
        Reason.DRAINING,
    }
)
MAX_TENANT_LABELS = 200
"""Tenants beyond this many share the label `other`: label sets must stay bounded."""


class Statistics(Collector):
    """Observes finished requests. All methods but `collect` are cheap: they run once per request."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._bound: dict[tuple[str, str], Cell] = {}
        self._cells: dict[tuple[str, str], Cell] = {}
        self._tenants: set[str] = set()
        self.models: dict[tuple[str, str, int], ModelCounters] = {}
        self.in_flight = 0
        """Requests inside the router."""
        registry.register(self)

    def served(
        self,
        tenant_id: str,
        tenant: str,
        model: str,
        version: int,
        elapsed_s: float,
        reply: Reply,
        slo_ms: int,
        now_ms: int,
    ) -> None:
        """One answered request."""
        queue_us, service_us, batch_requests = reply.queue_us, reply.service_us, reply.batch_requests
        cell = self._bound.get((tenant, model)) or self._bind(tenant, model)
        cell.outcomes["OK"] += 1
        cell.latency.observe(elapsed_s)
        cell.queue.observe(queue_us / 1e6)
        cell.batch.observe(batch_requests)
        if slo_ms:
            if elapsed_s * 1e3 <= slo_ms:
                cell.met += 1
            else:
                cell.missed += 1
        counters = self._counters(tenant_id, model, version)
        counters.success += 1
        counters.met += not slo_ms or elapsed_s * 1e3 <= slo_ms
        counters.success_ns += int(elapsed_s * 1e9)
        counters.queue_ns += queue_us * 1000
        counters.compute_ns += service_us * 1000
        counters.executions += 1.0 / max(1, batch_requests)
        counters.rows += 1
        counters.last_ms = now_ms

    def refused(self, tenant: str, model: str, error: PartywallError) -> None:
        """One request that ended with an error."""
        outcomes = (self._bound.get((tenant, model)) or self._bind(tenant, model)).outcomes
        reason = error.reason.value
        outcomes[reason] = outcomes.get(reason, 0) + 1

    def failed(
        self, tenant_id: str, model: str, version: int, elapsed_s: float, error: PartywallError | None = None
    ) -> None:
        """One request that reached a version and ended with an error."""
        counters = self._counters(tenant_id, model, version)
        counters.failed += 1
        counters.unserved += error is not None and error.reason in _OF_CAPACITY
        counters.failed_ns += int(elapsed_s * 1e9)

    def prune(self, standing: Iterable[tuple[str, str, str]]) -> None:
        """Forgets tenants and models that are gone; `standing` are (tenant id, tenant, model) of all that are not."""
        standing = list(standing)
        ids, names = {(tenant_id, model) for tenant_id, _, model in standing}, {one[1:] for one in standing}
        tenants = {tenant for tenant, _ in names}
        # Refusals of unknown names are counted under no name.
        self._bound = {k: cell for k, cell in self._bound.items() if k in names or (not k[1] and k[0] in tenants)}
        held = {id(cell) for cell in self._bound.values()}
        self._cells = {key: cell for key, cell in self._cells.items() if id(cell) in held}
        self._tenants &= tenants
        self.models = {key: counters for key, counters in self.models.items() if key[:2] in ids}

    def collect(self) -> Iterable[Metric]:
        """All metrics as they stand; called from the thread of the HTTP port."""
        names = ("tenant", "model")
        requests = CounterMetricFamily(
            "partywall_requests", "Requests by outcome (OK or the reason of the refusal)", labels=(*names, "outcome")
        )
        slo = CounterMetricFamily(
            "partywall_slo_requests",
            "Requests of models with an objective, by whether they met it",
            labels=(*names, "met"),
        )
        latency = HistogramMetricFamily(
            "partywall_request_seconds",
            "Time from the request's arrival at the router to its answer, served requests",
            labels=names,
        )
        queue = HistogramMetricFamily("partywall_queue_seconds", "Time a request waited at the agent", labels=names)
        batch = HistogramMetricFamily("partywall_batch_requests", "Requests per executed batch", labels=names)
        # Copies: the loop's thread may add to them meanwhile.
        for key, cell in list(self._cells.items()):
            for outcome, count in list(cell.outcomes.items()):
                requests.add_metric((*key, outcome), count)
            slo.add_metric((*key, "true"), cell.met)
            slo.add_metric((*key, "false"), cell.missed)
            latency.add_metric(key, cell.latency.buckets(), cell.latency.total)
            queue.add_metric(key, cell.queue.buckets(), cell.queue.total)
            batch.add_metric(key, cell.batch.buckets(), cell.batch.total)
        in_flight = GaugeMetricFamily("partywall_in_flight_requests", "Requests inside the router", self.in_flight)
        return (requests, slo, latency, queue, batch, in_flight)

    def _counters(self, tenant_id: str, model: str, version: int) -> ModelCounters:
        key = (tenant_id, model, version)
        counters = self.models.get(key)
        if counters is None:
            counters = self.models[key] = ModelCounters()
        return counters

    def _bind(self, tenant: str, model: str) -> Cell:
        key = (self._label(tenant), model)
        cell = self._cells.get(key)
        if cell is None:
            cell = self._cells[key] = Cell()
        self._bound[tenant, model] = cell
        return cell

    def _label(self, tenant: str) -> str:
        if tenant in self._tenants:
            return tenant
        if len(self._tenants) >= MAX_TENANT_LABELS:
            return "other"
        self._tenants.add(tenant)
        return tenant


class NoStatistics(Statistics):
    """Counts nothing, for `--no-metrics`."""

    def served(
        self,
        tenant_id: str,
        tenant: str,
        model: str,
        version: int,
        elapsed_s: float,
        reply: Reply,
        slo_ms: int,
        now_ms: int,
    ) -> None:
        """Does nothing."""

    def refused(self, tenant: str, model: str, error: PartywallError) -> None:
        """Does nothing."""

    def failed(
        self, tenant_id: str, model: str, version: int, elapsed_s: float, error: PartywallError | None = None
    ) -> None:
        """Does nothing."""
