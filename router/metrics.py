"""Gauges that are read when somebody asks, and the HTTP port that answers `/metrics`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from threading import Thread
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from partywall.v1 import fleet_pb2
from router.control.membership import Membership, Names
from router.gateway.slowdown import SlowdownNow
from router.servers import Address, cannot_listen


class FleetCollector(Collector):
    """Agents, replicas and their queues, as they are at the moment of the scrape."""

    def __init__(self, membership: Membership) -> None:
        self._membership = membership

    def collect(self) -> Iterable[Metric]:
        agents = GaugeMetricFamily("partywall_agents", "Agents connected")
        agents.add_metric([], len(list(self._membership.sessions())))
        yield agents
        names = ("tenant", "model", "version", "node", "state")
        replicas = GaugeMetricFamily("partywall_replicas", "Replicas by state", labels=names)
        queued = GaugeMetricFamily("partywall_replica_queued_rows", "Rows waiting at the agent", labels=names)
        flight = GaugeMetricFamily("partywall_replica_in_flight_requests", "Requests sent, not answered", labels=names)
        for replica in self._membership.replicas():
            state = fleet_pb2.ReplicaState.Name(replica.state).removeprefix("REPLICA_STATE_").lower()
            labels = [replica.tenant, replica.model, str(replica.version), replica.node, state]
            replicas.add_metric(labels, 1)
            queued.add_metric(labels, replica.queued)
            flight.add_metric(labels, replica.in_flight)
        yield replicas
        yield queued
        yield flight


class SlowdownCollector(Collector):
    """What neighbours cost each profiled replica: predicted, observed, and the bound that admission uses."""

    def __init__(self, slowdowns: Callable[[], Sequence[SlowdownNow]], names: Names) -> None:
        self._slowdowns = slowdowns
        self._names = names

    def collect(self) -> Iterable[Metric]:
        family = GaugeMetricFamily(
            "partywall_slowdown",
            "Service time beside neighbours / alone at the same share, by kind (predicted, observed, bound)",
            labels=("tenant", "model", "version", "node", "kind"),
        )
        rests = GaugeMetricFamily(
            "partywall_slowdown_basis",
            "1 under what the prediction rests on: fit, profiles, or constant where something was never measured",
            labels=("tenant", "model", "version", "node", "basis"),
        )
        for now in self._slowdowns():
            placement = now.placement
            tenant, model = self._names.tenant_name(placement.tenant_id), self._names.model_name(placement.model_id)
            labels = [tenant, model, str(placement.version), placement.node]
            family.add_metric([*labels, "predicted"], now.corrected)
            family.add_metric([*labels, "bound"], now.bound)
            if now.observed:
                family.add_metric([*labels, "observed"], now.observed)
            rests.add_metric([*labels, now.basis.value], 1.0)
        yield family
        yield rests


def serve(registry: CollectorRegistry, address: Address) -> tuple[Address, Callable[[], None]]:
    """Starts the HTTP port in a thread of its own; answers its address and the way to stop it.

    Raises:
        NotReady: The port is taken.
    """
    try:
        server, thread = start_http_server(address.port, address.host, registry)
    except OSError as error:
        raise cannot_listen(address, f"{error.strerror} (--metrics-listen)") from error
    bound = Address(address.host, server.server_address[1])

    def stop() -> None:
        _stop(server, thread)

    return bound, stop


def _stop(server: WSGIServer, thread: Thread) -> None:
    server.shutdown()
    server.server_close()
    thread.join(5.0)
