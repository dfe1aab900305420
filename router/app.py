"""One router process: its ports, one loop, an orderly end."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

import structlog
import uvloop
from grpc_health.v1 import health_pb2
from grpc_health.v1._async import HealthServicer

from partywall import logs
from partywall.errors import PartywallError
from partywall.memory import keep_trimmed, settle, share_heap
from partywall.wire import inference as oip
from router.compose import build
from router.control.follow import watch
from router.parts import Parts
from router.ports import MODELS, Ports, open_ports, ready
from router.processes.answers import Answers, socket_of
from router.processes.shared_slowdowns import FollowersSlowdowns
from router.public_tls import LOOK_EVERY_S, PublicTls
from router.settings import RouterSettings

log = structlog.get_logger(__name__)

TLS_HEALTH = "partywall.tls"
"""Serving where the files of --tls-cert and --tls-key can be used as they are now."""
REFUSE_S = 0.5
"""How long a draining router still answers new requests with DRAINING before its ports close."""


def run(settings: RouterSettings) -> int:
    """Runs a router until SIGTERM or SIGINT; answers the exit code. Blocks."""
    logs.configure(settings.log_level, settings.log_json, "router")
    share_heap()
    try:
        return uvloop.run(_main(settings))
    except PartywallError as error:
        log.critical(error.message, reason=error.reason.value)
        return 1


async def _main(settings: RouterSettings) -> int:
    parts = await build(settings)
    ports = await open_ports(parts)
    rank, shared = settings.rank, parts.shared_slowdowns
    answers = Answers({**parts.siblings.answers(), **(shared.answers() if shared is not None else {})})
    if rank.folder is None:
        write_addresses(settings.data_dir, ports.addresses)
    tasks = [
        asyncio.create_task(parts.keeper.run()),
        asyncio.create_task(parts.membership.watch()),
        asyncio.create_task(_keep_health(parts, ports.health)),
        asyncio.create_task(parts.housekeeper.run()),
        asyncio.create_task(keep_trimmed()),
    ]
    if ports.tls is not None:
        tasks.append(asyncio.create_task(_keep_tls(ports.tls, ports.health)))
    if rank.leads:
        tasks.append(asyncio.create_task(parts.profiles.run()))
    if parts.planner is not None:
        tasks.append(asyncio.create_task(parts.planner.run()))
    # One of several processes sees a part of the replies only: the leading one looks at all of them.
    tasks.append(asyncio.create_task(shared.run() if isinstance(shared, FollowersSlowdowns) else parts.slowdowns.run()))
    if rank.folder is not None:
        tasks.append(asyncio.create_task(watch(parts.catalog)))
        await answers.start(socket_of(rank.folder, rank.index))
    settle()
    log.info("router ready", process=rank.index, **ports.addresses)
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
        await answers.close()


async def _close(parts: Parts, ports: Ports, tasks: list[asyncio.Task[Any]]) -> None:
    """Drains: not ready, no new calls, accepted ones finish within the bound; the agents' link goes last."""
    log.info("router draining", seconds=parts.settings.drain_s)
    await ports.health.enter_graceful_shutdown()
    ports.inference.start_draining()
    # Callers hear why before the port closes: what arrives at a closing port, gRPC cancels without a reason.
    await asyncio.sleep(min(REFUSE_S, parts.settings.drain_s))
    servers = [server for server in (ports.public, ports.admin, ports.internal) if server is not None]
    await asyncio.gather(*(server.stop(parts.settings.drain_s) for server in servers))
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    ports.frames.close()
    await ports.link.stop(0.5)
    if ports.forwarder is not None:
        await ports.forwarder.close()
    if ports.stop_metrics is not None:
        await asyncio.to_thread(ports.stop_metrics)
    await parts.store.close()
    log.info("router stopped")


async def _keep_health(parts: Parts, health: HealthServicer) -> None:
    """Readiness as it is, for whoever watches grpc.health.v1."""
    changed = asyncio.Event()
    parts.membership.on_change(changed.set)
    while True:
        status = health_pb2.HealthCheckResponse.SERVING if ready(parts) else health_pb2.HealthCheckResponse.NOT_SERVING
        for service in ("", oip.SERVICE_NAME):
            await health.set(service, status)
        await health.set(MODELS, health_pb2.HealthCheckResponse.SERVING)
        await changed.wait()
        changed.clear()


async def _keep_tls(tls: PublicTls, health: HealthServicer) -> None:
    """Follows the TLS files; whoever watches grpc.health.v1 sees under a name of its own whether they can be used."""
    while True:
        status = health_pb2.HealthCheckResponse.NOT_SERVING if tls.problem else health_pb2.HealthCheckResponse.SERVING
        await health.set(TLS_HEALTH, status)
        await asyncio.sleep(LOOK_EVERY_S)
        await asyncio.to_thread(tls.look)


def write_addresses(data_dir: Path, addresses: dict[str, str]) -> None:
    """Says where this router listens. Replaces the file whole: readers never see half of it."""
    path = data_dir / "run" / "addresses.json"
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps({**addresses, "pid": os.getpid()}))
    fresh.replace(path)
