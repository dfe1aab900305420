"""Counters: what requests leave behind, and how it reads at `/metrics`."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, generate_latest

from partywall.errors import NotFound, Overloaded, Reason
from partywall.v1 import agent_link_pb2 as link
from router.gateway.statistics import MAX_TENANT_LABELS, NoStatistics, Statistics

REPLY = link.InferReply(queue_us=3_000, service_us=500, batch_requests=4, batch_rows=4)


def serve(statistics: Statistics, tenant: str = "acme", model: str = "echo", elapsed_s: float = 0.004) -> None:
    statistics.served(f"id-{tenant}", tenant, model, 1, elapsed_s, REPLY, 10, 1234)


def value(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    return registry.get_sample_value(name, labels)


def test_a_request_counts_in_every_metric() -> None:
    registry = CollectorRegistry()
    statistics = Statistics(registry)
    serve(statistics)
    serve(statistics, elapsed_s=0.02)
    where = {"tenant": "acme", "model": "echo"}
    assert value(registry, "partywall_requests_total", **where, outcome="OK") == 2
    assert value(registry, "partywall_request_seconds_count", **where) == 2
    assert value(registry, "partywall_request_seconds_sum", **where) == 0.024
    assert value(registry, "partywall_queue_seconds_bucket", **where, le="0.002") == 0
    assert value(registry, "partywall_queue_seconds_bucket", **where, le="0.005") == 2
    assert value(registry, "partywall_batch_requests_bucket", **where, le="4.0") == 2
    assert value(registry, "partywall_slo_requests_total", **where, met="true") == 1
    assert value(registry, "partywall_slo_requests_total", **where, met="false") == 1


def test_a_bound_belongs_to_its_bucket_and_the_last_bucket_holds_all() -> None:
    registry = CollectorRegistry()
    statistics = Statistics(registry)
    for elapsed_s in (0.001, 0.0011, 99.0):
        serve(statistics, elapsed_s=elapsed_s)
    where = {"tenant": "acme", "model": "echo"}
    counts = [value(registry, "partywall_request_seconds_bucket", **where, le=le) for le in ("0.001", "30.0", "+Inf")]
    assert counts == [1, 2, 3]


def test_refusals_count_by_reason_and_per_version() -> None:
    registry = CollectorRegistry()
    statistics = Statistics(registry)
    statistics.refused("acme", "echo", Overloaded("full", reason=Reason.QUEUE_FULL))
    statistics.refused("acme", "", NotFound("no", reason=Reason.MODEL_NOT_FOUND))
    statistics.failed("id-acme", "echo", 1, 0.5)
    assert value(registry, "partywall_requests_total", tenant="acme", model="echo", outcome="QUEUE_FULL") == 1
    assert value(registry, "partywall_requests_total", tenant="acme", model="", outcome="MODEL_NOT_FOUND") == 1
    counters = statistics.models["id-acme", "echo", 1]
    assert (counters.failed, counters.failed_ns, counters.success) == (1, 500_000_000, 0)


def test_a_batch_is_one_execution() -> None:
    statistics = Statistics(CollectorRegistry())
    for _ in range(4):
        serve(statistics)
    counters = statistics.models["id-acme", "echo", 1]
    assert (counters.success, counters.executions, counters.rows) == (4, 1.0, 4)


def test_labels_stay_bounded() -> None:
    registry = CollectorRegistry()
    statistics = Statistics(registry)
    for number in range(MAX_TENANT_LABELS + 5):
        serve(statistics, tenant=f"t{number}")
    assert value(registry, "partywall_requests_total", tenant="other", model="echo", outcome="OK") == 5


def test_in_flight_is_a_gauge_and_the_text_is_whole() -> None:
    registry = CollectorRegistry()
    statistics = Statistics(registry)
    statistics.in_flight += 2
    serve(statistics)
    text = generate_latest(registry).decode()
    assert "partywall_in_flight_requests 2.0" in text
    assert "# TYPE partywall_request_seconds histogram" in text


def test_switched_off_nothing_is_counted() -> None:
    registry = CollectorRegistry()
    statistics = NoStatistics(registry)
    serve(statistics)
    statistics.refused("acme", "echo", Overloaded("full", reason=Reason.QUEUE_FULL))
    statistics.failed("id-acme", "echo", 1, 0.5)
    assert statistics.models == {}
    assert value(registry, "partywall_requests_total", tenant="acme", model="echo", outcome="OK") is None


def test_what_is_gone_is_forgotten_and_its_label_is_free_again() -> None:
    registry = CollectorRegistry()
    statistics = Statistics(registry)
    for tenant in ("acme", "zeta"):
        for model in ("echo", "late"):
            serve(statistics, tenant, model)
        statistics.refused(tenant, "", NotFound("no model", reason=Reason.MODEL_NOT_FOUND))
    statistics.prune([("id-acme", "acme", ""), ("id-acme", "acme", "echo")])
    assert statistics.models.keys() == {("id-acme", "echo", 1)}
    text = generate_latest(registry).decode()
    assert "zeta" not in text
    assert "late" not in text
    assert value(registry, "partywall_requests_total", tenant="acme", model="echo", outcome="OK") == 1
    assert value(registry, "partywall_requests_total", tenant="acme", model="", outcome="MODEL_NOT_FOUND") == 1
    for number in range(MAX_TENANT_LABELS - 1):
        serve(statistics, tenant=f"t{number}")
    assert value(registry, "partywall_requests_total", tenant="other", model="echo", outcome="OK") is None
