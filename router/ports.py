"""The router's servers with their services, and where they listen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1._async import HealthServicer

from partywall.v1 import (
    agent_link_pb2,
    agent_link_pb2_grpc,
    fleet_pb2_grpc,
    models_pb2,
    models_pb2_grpc,
    profiles_pb2,
    profiles_pb2_grpc,
    tenants_pb2_grpc,
)
from partywall.wire import inference as oip
from partywall.wire.coalesce import WINDOW_S
from router import metrics, reflection
from router.control.enrol import AgentIdentity, JoinService
from router.control.fleet_service import FleetService
from router.control.models_service import admin_resolver
from router.control.profiles_service import ProfilesService
from router.control.rpc import AdminGuard, ErrorInterceptor
from router.control.tenants_service import TenantsService
from router.faces import Grants, Names
from router.front.server import FrontServer, front_server
from router.gateway import link_service
from router.gateway.authn import Authenticator
from router.gateway.frames_port import FramesPort
from router.gateway.inference import InferenceService
from router.gateway.link_service import AgentLinkService
from router.parts import Parts
from router.processes.forward import LEADER_SOCKET, Forwarder, leader_address
from router.public_tls import PublicTls, TlsCollector, public_credentials
from router.residency import Residency
from router.servers import Address, bind, collect, link_options, options
from router.services import fleet_service, models_service, tenants_services

MODELS, PROFILES, TENANTS, FLEET, HEALTH = (
    "partywall.v1.Models",
    "partywall.v1.Profiles",
    "partywall.v1.Tenants",
    "partywall.v1.Fleet",
    "grpc.health.v1.Health",
)
FORWARDED = (models_pb2.DESCRIPTOR.services_by_name["Models"], profiles_pb2.DESCRIPTOR.services_by_name["Profiles"])
"""What processes that do not lead pass on to the one that does."""


@dataclass(slots=True)
class Ports:
    """The servers and where they listen. Processes that do not lead have no admin port and no metrics port."""

    public: FrontServer | grpc.aio.Server
    admin: grpc.aio.Server | None
    link: grpc.aio.Server
    frames: FramesPort
    health: HealthServicer
    inference: InferenceService
    addresses: dict[str, str]
    stop_metrics: Callable[[], None] | None
    internal: grpc.aio.Server | None
    """The leading process's port for the others."""
    forwarder: Forwarder | None
    tls: PublicTls | None
    """Of the public and the admin port; None where they are plaintext on loopback."""


async def open_ports(parts: Parts) -> Ports:
    """Binds and starts what this process serves.

    Raises:
        NotReady: A port is taken.
        InvalidInput: An address or the TLS identity is not usable.
    """
    settings, rank = parts.settings, parts.settings.rank
    listen = Address.parse(settings.listen, "--listen")
    admin_listen = Address.parse(settings.admin_listen, "--admin-listen")
    health = HealthServicer()
    authenticator = Authenticator(parts.catalog, parts.clock, parts.key_use.note)
    forwarder = None if rank.leads or rank.folder is None else Forwarder(rank.folder, settings.max_message_bytes)
    if forwarder is not None:
        tenants_own = [forwarder.handler(service) for service in FORWARDED]
    else:
        tenants_own = tenants_services(parts, authenticator)
    public, inference = _public_server(parts, health, authenticator, tenants_own)
    frames = FramesPort(AgentIdentity(parts.catalog).of_certificate)
    link = _link_server(parts, frames)
    tls = PublicTls.of(settings.tls_cert, settings.tls_key)
    addresses = {"public": bind(public, listen, public_credentials(listen, tls, "--listen")).text}
    admin = None
    if parts.reconciler is not None:
        admin = _admin_server(parts, health, fleet_service(parts, parts.reconciler))
        addresses["admin"] = bind(admin, admin_listen, public_credentials(admin_listen, tls, "--admin-listen")).text
        if tls is not None:
            parts.registry.register(TlsCollector(tls))
        parts.registry.register(metrics.FleetCollector(parts.membership))
        parts.registry.register(metrics.SlowdownCollector(parts.slowdowns.all_now, Names(parts.catalog)))
    addresses["link"] = bind(
        link, Address.parse(settings.link_listen, "--link-listen"), parts.link_identity.credentials()
    ).text
    parts.link_address[0] = addresses["link"]
    await _open_frames(parts, frames)
    stop_metrics = None
    if rank.alone:
        metrics_listen = Address.parse(settings.metrics_listen, "--metrics-listen")
        metrics_at, stop_metrics = metrics.serve(parts.registry, metrics_listen)
        addresses["metrics"] = metrics_at.text
    internal = None
    if rank.leads and rank.folder is not None:
        # Left behind by the process whose place this one takes.
        (rank.folder / LEADER_SOCKET).unlink(missing_ok=True)
        internal = _internal_server(parts, rank.folder, tenants_own)
    for server in (internal, link, admin, public):
        if server is not None:
            await server.start()
    return Ports(public, admin, link, frames, health, inference, addresses, stop_metrics, internal, forwarder, tls)


def ready(parts: Parts) -> bool:
    """Whether requests can be served: an agent is here."""
    return any(True for _ in parts.membership.sessions())


def _public_server(
    parts: Parts, health: HealthServicer, authenticator: Authenticator, tenants_own: list[grpc.GenericRpcHandler]
) -> tuple[FrontServer | grpc.aio.Server, InferenceService]:
    settings = parts.settings
    server = front_server(
        settings.front,
        options(
            settings.max_message_bytes,
            reuse_port=not settings.rank.alone,
            age_s=settings.public_connection_age_s,
            grace_s=settings.max_deadline_s,
        ),
    )
    inference = InferenceService(
        authenticator,
        parts.dispatcher,
        parts.routes,
        Residency(parts.control),
        parts.siblings.counters,
        lambda: ready(parts),
        parts.clock,
        max_message_bytes=settings.max_message_bytes,
    )
    # A generated registration would also make each method one of gRPC's own, and its loop asks for the next call of
    # every one of those at every request.
    watched = collect(health_pb2_grpc.add_HealthServicer_to_server, health)
    server.add_generic_rpc_handlers([inference.handler(), *tenants_own, *watched])
    if settings.reflection:
        reflection.enable(server, (oip.SERVICE_NAME, MODELS, PROFILES, HEALTH))
    return server, inference


def _unheard(node: str, event: agent_link_pb2.AgentEvent) -> None:
    """Agents tell the leading process."""


def _admin_server(parts: Parts, health: HealthServicer, fleet: FleetService) -> grpc.aio.Server:
    settings = parts.settings
    server = grpc.aio.server(
        interceptors=[ErrorInterceptor(), AdminGuard(parts.admin_digest)],
        options=options(settings.max_message_bytes, reuse_port=not settings.rank.alone),
    )
    resolver = admin_resolver(parts.catalog)
    tenants_pb2_grpc.add_TenantsServicer_to_server(TenantsService(parts.control, parts.remover), server)
    models_pb2_grpc.add_ModelsServicer_to_server(models_service(parts, resolver), server)
    profiles = ProfilesService(parts.profiles, resolver, operator=True)
    profiles_pb2_grpc.add_ProfilesServicer_to_server(profiles, server)
    fleet_pb2_grpc.add_FleetServicer_to_server(fleet, server)
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    reflection.enable(server, (TENANTS, MODELS, PROFILES, FLEET, HEALTH))
    return server


def _internal_server(parts: Parts, folder: Path, tenants_own: list[grpc.GenericRpcHandler]) -> grpc.aio.Server:
    """What the other processes pass on; on a socket in their private folder."""
    server = grpc.aio.server(options=options(parts.settings.max_message_bytes))
    server.add_generic_rpc_handlers(tenants_own)
    server.add_insecure_port(leader_address(folder))
    return server


async def _open_frames(parts: Parts, frames: FramesPort) -> None:
    settings = parts.settings
    wanted = Address.parse(settings.link_listen, "--link-listen")
    wanted = Address(wanted.host, 0)
    if settings.frames_listen:
        wanted = Address.parse(settings.frames_listen, "--frames-listen")
    await frames.start(wanted.host, wanted.port, parts.link_identity.context)


def _link_server(parts: Parts, frames: FramesPort) -> grpc.aio.Server:
    settings = parts.settings
    server = grpc.aio.server(
        interceptors=[ErrorInterceptor()], options=link_options(reuse_port=not settings.rank.alone)
    )
    service = AgentLinkService(
        parts.membership,
        AgentIdentity(parts.catalog),
        parts.blobs,
        Grants(parts.catalog),
        parts.clock,
        heartbeat_s=settings.heartbeat_s,
        max_message_bytes=settings.max_message_bytes,
        window_s=WINDOW_S if settings.coalescing else 0.0,
        links=settings.rank.links,
        frames=frames,
        on_profile=parts.profiles.on_progress,
        on_event=parts.reconciler.events.note if parts.reconciler is not None else _unheard,
    )
    link_service.add_to_server(service, server)
    if settings.rank.leads:
        join = JoinService(parts.enrolment, parts.authority.ca_pem)
        agent_link_pb2_grpc.add_JoinServicer_to_server(join, server)
    return server
