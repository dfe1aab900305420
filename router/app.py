"""The router process: four ports, one loop, an orderly end."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import structlog
import uvloop
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer

from partywall import logs
from partywall.errors import PartywallError
from partywall.memory import settle
from partywall.v1 import (
    agent_link_pb2_grpc,
    fleet_pb2_grpc,
    models_pb2_grpc,
    profiles_pb2_grpc,
    tenants_pb2_grpc,
)
from partywall.wire import inference as oip
from partywall.wire.coalesce import WINDOW_S
from router import metrics, reflection
from router.control.enrol import AgentIdentity, JoinService
from router.control.explain import Requests
from router.control.fleet_service import FleetService
from router.control.models_service import ModelsService, admin_resolver
from router.control.partitions import Partitions
from router.control.profiles_service import ProfilesService
from router.control.rpc import AdminGuard, ErrorInterceptor
from router.control.tenants_service import TenantsService
from router.gateway.authn import Authenticator
from router.gateway.inference import InferenceService
from router.gateway.link_service import AgentLinkService
from router.parts import Grants, Parts, Residency, build
from router.servers import Address, bind, collect, link_options, options, public_credentials
from router.settings import RouterSettings

log = structlog.get_logger(__name__)

MODELS, PROFILES, TENANTS, FLEET, HEALTH = (
    "partywall.v1.Models",
    "partywall.v1.Profiles",
    "partywall.v1.Tenants",
    "partywall.v1.Fleet",
    "grpc.health.v1.Health",
)

REFUSE_S = 0.5
"""How long a draining router still answers new requests with DRAINING before its ports close."""


def run(settings: RouterSettings) -> int:
    """Runs a router until SIGTERM or SIGINT; answers the exit code. Blocks."""
    logs.configure(settings.log_level, settings.log_json, "router")
    try:
        return uvloop.run(_main(settings))
    except PartywallError as error:
        log.critical(error.message, reason=error.reason.value)
        return 1


@dataclass(slots=True)
class _Ports:
    """The servers and where they listen."""

    public: grpc.aio.Server
    admin: grpc.aio.Server
    link: grpc.aio.Server
    health: HealthServicer
    inference: InferenceService
    addresses: dict[str, str]
    stop_metrics: Callable[[], None]


async def _main(settings: RouterSettings) -> int:
    parts = await build(settings)
    ports = await _open(parts)
    _write_addresses(settings.data_dir / "run" / "addresses.json", ports.addresses)
    tasks = [
        asyncio.create_task(parts.reconciler.run()),
        asyncio.create_task(parts.membership.watch()),
        asyncio.create_task(_keep_health(parts, ports.health)),
        asyncio.create_task(parts.housekeeper.run()),
        asyncio.create_task(parts.profiles.run()),
    ]
    settle()
    log.info("router ready", **ports.addresses)
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    watcher = asyncio.create_task(stopping.wait())
    try:
        done, _ = await asyncio.wait([watcher, *tasks], return_when=asyncio.FIRST_COMPLETED)
        for task in done - {watcher}:
            # A background task never ends by itself: what ended it is a defect, and the supervisor starts us anew.
            log.critical("background task ended", error=repr(task.exception()))
        return 0 if watcher in done else 1
    finally:
        await _close(parts, ports, [watcher, *tasks])


async def _close(parts: Parts, ports: _Ports, tasks: list[asyncio.Task[Any]]) -> None:
    """Drains: not ready, no new calls, accepted ones finish within the bound; the agents' link goes last."""
    log.info("router draining", seconds=parts.settings.drain_s)
    await ports.health.enter_graceful_shutdown()
    ports.inference.start_draining()
    # Callers hear why before the port closes: what arrives at a closing port, gRPC cancels without a reason.
    await asyncio.sleep(min(REFUSE_S, parts.settings.drain_s))
    await asyncio.gather(ports.public.stop(parts.settings.drain_s), ports.admin.stop(parts.settings.drain_s))
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await ports.link.stop(0.5)
    await asyncio.to_thread(ports.stop_metrics)
    await parts.store.close()
    log.info("router stopped")


async def _open(parts: Parts) -> _Ports:
    settings = parts.settings
    listen = Address.parse(settings.listen, "--listen")
    admin_listen = Address.parse(settings.admin_listen, "--admin-listen")
    link_listen = Address.parse(settings.link_listen, "--link-listen")
    health = HealthServicer()
    public, inference = _public_server(parts, health)
    admin = _admin_server(parts, health)
    link = _link_server(parts)
    tls = (settings.tls_cert, settings.tls_key)
    public_at = bind(public, listen, public_credentials(listen, *tls, "--listen"))
    admin_at = bind(admin, admin_listen, public_credentials(admin_listen, *tls, "--admin-listen"))
    link_at = bind(link, link_listen, _link_credentials(parts))
    parts.link_address[0] = link_at.text
    parts.registry.register(metrics.FleetCollector(parts.membership))
    metrics_at, stop_metrics = metrics.serve(parts.registry, Address.parse(settings.metrics_listen, "--metrics-listen"))
    for server in (link, admin, public):
        await server.start()
    addresses = {
        "public": public_at.text,
        "admin": admin_at.text,
        "link": link_at.text,
        "metrics": metrics_at.text,
    }
    return _Ports(public, admin, link, health, inference, addresses, stop_metrics)


def _public_server(parts: Parts, health: HealthServicer) -> tuple[grpc.aio.Server, InferenceService]:
    server = grpc.aio.server(options=options(parts.settings.max_message_bytes))
    authenticator = Authenticator(parts.catalog, parts.clock, parts.key_use.note)
    inference = InferenceService(
        authenticator,
        parts.dispatcher,
        parts.routes,
        Residency(parts),
        parts.statistics,
        lambda: _ready(parts),
        parts.clock,
        max_message_bytes=parts.settings.max_message_bytes,
    )
    models = ModelsService(
        parts.control,
        parts.uploads,
        parts.remover,
        parts.membership,
        lambda context: authenticator.tenant(context.invocation_metadata()),
        Requests(parts.journal),
    )
    profiles = ProfilesService(parts.profiles, lambda context: authenticator.tenant(context.invocation_metadata()))
    server.add_generic_rpc_handlers(
        [
            inference.handler(),
            *collect(models_pb2_grpc.add_ModelsServicer_to_server, models),
            *collect(profiles_pb2_grpc.add_ProfilesServicer_to_server, profiles),
        ]
    )
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    if parts.settings.reflection:
        reflection.enable(server, (oip.SERVICE_NAME, MODELS, PROFILES, HEALTH))
    return server, inference


def _admin_server(parts: Parts, health: HealthServicer) -> grpc.aio.Server:
    server = grpc.aio.server(
        interceptors=[ErrorInterceptor(), AdminGuard(parts.admin_digest)],
        options=options(parts.settings.max_message_bytes),
    )
    resolver = admin_resolver(parts.catalog)
    models = ModelsService(
        parts.control, parts.uploads, parts.remover, parts.membership, resolver, Requests(parts.journal)
    )
    tenants_pb2_grpc.add_TenantsServicer_to_server(TenantsService(parts.control, parts.remover), server)
    models_pb2_grpc.add_ModelsServicer_to_server(models, server)
    profiles = ProfilesService(parts.profiles, resolver, operator=True)
    profiles_pb2_grpc.add_ProfilesServicer_to_server(profiles, server)
    fleet_pb2_grpc.add_FleetServicer_to_server(fleet_service(parts), server)
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    reflection.enable(server, (TENANTS, MODELS, PROFILES, FLEET, HEALTH))
    return server


def fleet_service(parts: Parts) -> FleetService:
    scene, manoeuvres = parts.reconciler.scene, parts.reconciler.manoeuvres
    return FleetService(parts.control, parts.membership, parts.enrolment, scene, Partitions(scene, manoeuvres))


def _link_server(parts: Parts) -> grpc.aio.Server:
    server = grpc.aio.server(interceptors=[ErrorInterceptor()], options=link_options())
    service = AgentLinkService(
        parts.membership,
        AgentIdentity(parts.catalog),
        parts.blobs,
        Grants(parts.catalog),
        parts.clock,
        heartbeat_s=parts.settings.heartbeat_s,
        max_message_bytes=parts.settings.max_message_bytes,
        window_s=WINDOW_S if parts.settings.coalescing else 0.0,
        on_profile=parts.profiles.on_progress,
    )
    agent_link_pb2_grpc.add_AgentLinkServicer_to_server(service, server)
    join = JoinService(parts.enrolment, parts.authority.ca_pem)
    agent_link_pb2_grpc.add_JoinServicer_to_server(join, server)
    return server


def _link_credentials(parts: Parts) -> grpc.ServerCredentials:
    pair = (parts.link_identity.key_pem, parts.link_identity.certificate_pem)
    return grpc.ssl_server_credentials([pair], root_certificates=parts.authority.ca_pem, require_client_auth=True)


def _ready(parts: Parts) -> bool:
    """Whether requests can be served: an agent is here, and every resident live version has a ready replica."""
    return any(True for _ in parts.membership.sessions())


async def _keep_health(parts: Parts, health: HealthServicer) -> None:
    """Readiness as it is, for whoever watches grpc.health.v1."""
    changed = asyncio.Event()
    parts.membership.on_change(changed.set)
    while True:
        status = health_pb2.HealthCheckResponse.SERVING if _ready(parts) else health_pb2.HealthCheckResponse.NOT_SERVING
        for service in ("", oip.SERVICE_NAME):
            await health.set(service, status)
        await health.set(MODELS, health_pb2.HealthCheckResponse.SERVING)
        await changed.wait()
        changed.clear()


def _write_addresses(path: Path, addresses: dict[str, str]) -> None:
    """Replaces the file whole: readers never see half of it."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps({**addresses, "pid": os.getpid()}))
    fresh.replace(path)
