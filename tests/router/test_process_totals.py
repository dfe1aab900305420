"""Metrics of several processes: sums, and counters that never fall."""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

from router.processes.answers import families
from router.processes.totals import Totals


def counted(ok: int, in_flight: int = 0) -> list[dict[str, Any]]:
    requests = CounterMetricFamily("partywall_requests", "Requests", labels=("tenant", "outcome"))
    requests.add_metric(("acme", "OK"), ok)
    seconds = HistogramMetricFamily("partywall_request_seconds", "Time", labels=("tenant",))
    seconds.add_metric(("acme",), [("0.1", ok), ("+Inf", ok)], ok * 0.05)
    flight = GaugeMetricFamily("partywall_in_flight_requests", "Inside", in_flight)
    return families((requests, seconds, flight))


def value(totals: Totals, name: str, **labels: str) -> float | None:
    for metric in totals.collect():
        for sample in metric.samples:
            if sample.name == name and sample.labels == labels:
                return sample.value
    return None


def ok(totals: Totals) -> float | None:
    return value(totals, "partywall_requests_total", tenant="acme", outcome="OK")


def pair() -> Totals:
    totals = Totals(2)
    totals.started(0, 10)
    totals.started(1, 11)
    totals.update(0, 10, counted(3, 1))
    totals.update(1, 11, counted(4, 2))
    return totals


def test_samples_are_added() -> None:
    totals = pair()
    assert ok(totals) == 7
    assert value(totals, "partywall_request_seconds_bucket", tenant="acme", le="0.1") == 7
    assert value(totals, "partywall_in_flight_requests") == 3
    assert value(totals, "partywall_router_process_requests_total", process="1") == 4


def test_what_a_dead_process_counted_stays_and_its_gauges_go() -> None:
    totals = pair()
    totals.lost(1)
    assert ok(totals) == 7
    assert value(totals, "partywall_in_flight_requests") == 1
    assert value(totals, "partywall_router_process_up", process="1") == 0
    assert value(totals, "partywall_router_process_ended_total", process="1") == 1
    totals.started(1, 12)
    totals.update(1, 12, counted(2, 5))
    assert ok(totals) == 9
    assert value(totals, "partywall_router_process_requests_total", process="1") == 6


def test_the_late_word_of_a_dead_process_counts_nothing_twice() -> None:
    totals = pair()
    totals.lost(1)
    totals.update(1, 11, counted(4, 2))
    assert ok(totals) == 7
    totals.started(1, 12)
    totals.update(1, 11, counted(4, 2))
    assert ok(totals) == 7


def test_gauges_of_what_is_gone_are_dropped() -> None:
    totals = Totals(1)
    totals.started(0, 1)
    gauge = GaugeMetricFamily("partywall_replicas", "Replicas", labels=("model",))
    gauge.add_metric(("old",), 1)
    totals.update(0, 1, families((gauge,)))
    assert value(totals, "partywall_replicas", model="old") == 1
    totals.update(0, 1, families((GaugeMetricFamily("partywall_replicas", "Replicas", labels=("model",)),)))
    assert value(totals, "partywall_replicas", model="old") is None


def test_the_exposition_is_whole() -> None:
    totals = pair()

    class Everything:
        def collect(self) -> Any:
            return totals.collect()

        def describe(self) -> Any:
            return ()

    registry = CollectorRegistry()
    registry.register(Everything())  # type: ignore[arg-type]
    text = generate_latest(registry).decode()
    assert 'partywall_requests_total{outcome="OK",tenant="acme"} 7.0' in text
    assert 'partywall_request_seconds_count{tenant="acme"} 7.0' in text
