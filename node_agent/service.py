"""The agent at work: the link, the supervisor and the certificate's renewal, put together."""

from __future__ import annotations

import asyncio
import secrets
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import structlog

from isolation.partition.partitioner import WorkerConfinement
from isolation.sandbox import SandboxPolicy
from node_agent import identity as identities
from node_agent.artifacts import SWEEP_EVERY_S, Artifacts
from node_agent.connection import reply
from node_agent.device_watch import DeviceWatch
from node_agent.epoch import EpochFile
from node_agent.link import RouterLink
from node_agent.links import RouterLinks, reachable
from node_agent.node import OpenNode, open_node
from node_agent.profiling import Profiler
from node_agent.sealed_memory import SealedMemory
from node_agent.settings import AgentSettings
from node_agent.supervisor import Supervisor
from node_agent.walls import Walls
from node_agent.workers import WorkerHandle
from node_agent.zygote.client import ZygoteClient
from partywall import __version__
from partywall.clock import SystemClock
from partywall.domain.fleet import Device, DeviceKind, Partition, ReplicaStatus
from partywall.errors import InvalidInput, PartywallError
from partywall.memory import keep_trimmed, settle
from partywall.v1 import agent_link_pb2 as link
from partywall.v1 import fleet_pb2
from partywall.wire.coalesce import WINDOW_S
from partywall.wire.convert import device_to_proto

log = structlog.get_logger(__name__)

ATTEST_EVERY_S = 30.0
"""How often every wall is read again without being asked."""


async def serve(settings: AgentSettings, zygote: ZygoteClient) -> int:
    """Serves until SIGTERM or SIGINT; answers the exit code."""
    clock = SystemClock()
    folder = settings.data_dir
    _make(folder)
    holder = [await identities.establish(folder, settings.join_bundle, settings.node, clock.now())]
    node = open_node(settings, clock)
    devices = node.devices
    incarnation = secrets.token_hex(8)
    epoch = EpochFile(folder / "epoch")
    links: RouterLinks

    async def start(worker_id: str, partition: Partition, confinement: WorkerConfinement) -> WorkerHandle:
        policy = SandboxPolicy(read_paths=_sealed_roots(settings), required=settings.sandbox_required)
        environment = {k: v for k, v in confinement.environment.items() if k.startswith("CUDA_")}
        return await zygote.spawn(
            worker_id,
            partition,
            # Behind a simulated GPU a worker computes on the CPU.
            device_kind=DeviceKind.CPU if node.simulated else _kind(devices, partition),
            modules=settings.modules,
            sandbox=policy,
            environment=environment,
        )

    walls = Walls(devices, node.authority, start, node.sight)

    def report(status: ReplicaStatus) -> None:
        links.report(status)

    memory = SealedMemory(settings.sealed_memory_bytes)
    artifacts = Artifacts(folder / "cache", settings.blob_dir, lambda a, f, o: links.fetch(a, f, o), memory)
    supervisor = Supervisor(
        walls.spawn,
        artifacts,
        settings.queue,
        clock,
        reply,
        report,
        drain_s=settings.drain_s,
        watchdog_floor_s=settings.watchdog_s,
        walls=walls,
        on_event=lambda event: links.event(event),
    )
    profiler = Profiler(
        devices, walls.spawn, artifacts, lambda progress: links.report_profile(progress), library=node.library
    )

    watch = device_watch(node, supervisor, lambda event: links.event(event), lambda found: links.report_devices(found))

    def hello() -> link.Hello:
        return link.Hello(
            node=settings.node,
            incarnation=incarnation,
            version=__version__,
            devices=[device_to_proto(d) for d in (watch.devices if watch is not None else devices)],
            epoch_seen=epoch.seen,
        )

    def make_link(
        address: str,
        request_ids: Iterator[int],
        on_welcome: Callable[[Sequence[str]], None],
        shared: Callable[[], bool],
    ) -> RouterLink:
        return RouterLink(
            lambda: identities.channel(address, holder[0]),
            hello,
            supervisor,
            epoch,
            clock,
            WINDOW_S if settings.coalescing else 0.0,
            profiler,
            request_ids=request_ids,
            on_welcome=on_welcome,
            shared=shared,
            dial=lambda where: identities.dial(reachable(where, address), holder[0]),
        )

    links = RouterLinks(settings.router, make_link)
    settle()
    log.info("agent starting", node=settings.node, devices=[d.name for d in devices])
    tasks = [
        asyncio.create_task(links.run()),
        asyncio.create_task(_renew(settings, folder, holder)),
        asyncio.create_task(supervisor.watch_walls(ATTEST_EVERY_S)),
        asyncio.create_task(keep_trimmed()),
        asyncio.create_task(_sweep(artifacts)),
        *([asyncio.create_task(watch.run())] if watch is not None else []),
    ]
    first = asyncio.create_task(_start(zygote))
    stopping = asyncio.create_task(_on_signal().wait())
    try:
        done, _ = await asyncio.wait([stopping, *tasks], return_when=asyncio.FIRST_COMPLETED)
        for task in done - {stopping}:
            # A background task never ends by itself: what ended it is a defect, and the service manager starts us anew.
            log.critical("background task ended", error=repr(task.exception()))
        log.info("agent stopping")
        return 0 if stopping in done else 1
    finally:
        await profiler.close()
        await supervisor.close()
        for task in (stopping, first, *tasks):
            task.cancel()
        await asyncio.gather(stopping, first, *tasks, return_exceptions=True)
        await zygote.close()


def device_watch(
    node: OpenNode,
    supervisor: Supervisor,
    on_event: Callable[[link.AgentEvent], None],
    report: Callable[[list[fleet_pb2.Device]], None],
) -> DeviceWatch | None:
    """Watches the node's GPUs; None: it has none."""
    if node.library is None:
        return None

    def on_change(devices: tuple[Device, ...]) -> None:
        report([device_to_proto(d) for d in devices])

    return DeviceWatch(node.library, node.authority, node.devices, on_event, on_change, supervisor.abort, node.offers)


async def _start(zygote: ZygoteClient) -> None:
    """Brings the zygote up before the first worker is asked for; whoever asks tries again."""
    try:
        await zygote.start()
    except (PartywallError, OSError) as error:
        log.warning("no worker can be started yet", reason=str(error))


async def _renew(settings: AgentSettings, folder: Path, holder: list[identities.AgentIdentity]) -> None:
    """Renews the certificate in time; the next connection uses it."""
    clock = SystemClock()
    while True:
        await asyncio.sleep(60.0)
        current = holder[0]
        if not current.renew_due(clock.now()):
            continue
        try:
            holder[0] = fresh = await identities.renew(settings.router, current, settings.node)
            identities.save(folder, fresh)
            log.info("certificate renewed")
        except (PartywallError, OSError) as error:
            log.warning("certificate not renewed or not kept; trying again", reason=str(error))


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise InvalidInput(
            f"data_dir {str(folder)!r} cannot be made: {error.strerror}; choose a directory you may write to",
            fields={"field": "data_dir"},
        ) from error


async def _sweep(artifacts: Artifacts) -> None:
    clock = SystemClock()
    while True:
        # Later first: an agent that has just started uses nothing yet.
        await asyncio.sleep(SWEEP_EVERY_S)
        if gone := artifacts.sweep(clock.now().timestamp()):
            log.info("fetched artifacts removed", artifacts=gone)


def _kind(devices: tuple[Device, ...], partition: Partition) -> DeviceKind:
    return next((d.kind for d in devices if d.id == partition.device_id), DeviceKind.CPU)


def _sealed_roots(settings: AgentSettings) -> tuple[Path, ...]:
    cache = settings.data_dir / "cache"
    cache.mkdir(parents=True, exist_ok=True, mode=0o700)
    return (cache,) if settings.blob_dir is None else (cache, settings.blob_dir)


def _on_signal() -> asyncio.Event:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    setter: Callable[[], None] = stopping.set
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, setter)
    return stopping
