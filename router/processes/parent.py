"""A router in several processes: this one holds the ports, starts the others, replaces what dies, adds up metrics.

It serves no request itself. Process 0 leads; if it dies, the others go on serving on the last known state while it is
started again, and its new epoch tells agents so. Agents hold one link to each process.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import replace

import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from partywall import logs
from partywall.errors import PartywallError, Reason, Unavailable
from router import metrics
from router.app import write_addresses
from router.gateway.shared_throttle import QuotaBook
from router.processes.answers import ask, ask_now, socket_of
from router.processes.member import encode
from router.processes.reserve import Reserved
from router.processes.shared_folder import SharedFolder
from router.processes.totals import Totals
from router.public_tls import PublicTls, public_credentials
from router.servers import Address
from router.settings import Rank, RouterSettings

log = structlog.get_logger(__name__)

START_S = 60.0
FIRST_BACKOFF_S, LAST_BACKOFF_S, STABLE_S = 0.2, 30.0, 60.0
LOOK_EVERY_S = 1.0
"""How often each process is asked what it counts: a process that is killed takes at most so much with it."""


def run(settings: RouterSettings) -> int:
    """Runs `settings.processes` router processes until SIGTERM or SIGINT; answers the exit code. Blocks."""
    logs.configure(settings.log_level, settings.log_json, "router")
    folder = SharedFolder(settings.data_dir)
    try:
        with ExitStack() as held:
            return asyncio.run(Processes(settings, folder, held).run())
    except PartywallError as error:
        log.critical(error.message, reason=error.reason.value)
        return 1
    finally:
        folder.close()


class Processes(Collector):
    """All processes of one router, and one `/metrics` for them."""

    def __init__(self, settings: RouterSettings, folder: SharedFolder, held: ExitStack) -> None:
        """Reserves the ports; `held` gives them back.

        Raises:
            NotReady: A port is taken.
            InvalidInput: An address is not usable.
        """
        self._folder, self._lock = folder.path, folder.lock
        self._count = settings.processes
        self._drain_s = settings.drain_s
        listen = _reserve(settings.listen, "--listen", held)
        admin = _reserve(settings.admin_listen, "--admin-listen", held)
        tls = PublicTls.of(settings.tls_cert, settings.tls_key)
        for address, option in ((listen, "--listen"), (admin, "--admin-listen")):
            public_credentials(address, tls, option)
        wanted = Address.parse(settings.link_listen, "--link-listen")
        ports = [wanted.port + index if wanted.port else 0 for index in range(self._count)]
        links = tuple(_reserve(Address(wanted.host, port).text, "--link-listen", held).text for port in ports)
        self._metrics_listen = Address.parse(settings.metrics_listen, "--metrics-listen")
        self._addresses = {"public": listen.text, "admin": admin.text, "link": links[0]}
        self._settings = [
            replace(
                settings,
                listen=listen.text,
                admin_listen=admin.text,
                link_listen=link,
                frames_listen=_nth(settings.frames_listen, index),
                rank=Rank(index, self._count, links, folder.path),
            )
            for index, link in enumerate(links)
        ]
        self._data_dir = settings.data_dir
        self._totals = Totals(self._count)
        self._running: dict[int, asyncio.subprocess.Process] = {}
        self._stopping = asyncio.Event()

    async def run(self) -> int:
        """Until a signal comes; 0 when all processes ended in order.

        Raises:
            Unavailable: A process did not start.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._stopping.set)
        tasks: list[asyncio.Task[None]] = []
        try:
            # The leading one first and alone: it brings the state up to date before the others read it.
            for group in ((0,), range(1, self._count)):
                tasks += [asyncio.create_task(self._tend(index)) for index in group]
                if not await self._all_ready(group):
                    return 0
            registry = CollectorRegistry()
            registry.register(self)
            metrics_at, stop_metrics = metrics.serve(registry, self._metrics_listen)
            try:
                write_addresses(self._data_dir, {**self._addresses, "metrics": metrics_at.text})
                log.info("router ready", processes=self._count, **self._addresses, metrics=metrics_at.text)
                tasks.append(asyncio.create_task(self._look()))
                await self._stopping.wait()
            finally:
                await asyncio.to_thread(stop_metrics)
        finally:
            codes = await self._stop(tasks)
        return 0 if all(map(in_order, codes)) else 1

    def collect(self) -> Iterable[Metric]:
        """Asks every process and adds up; called from the thread of the HTTP port."""
        for index in range(self._count):
            answer = ask_now(socket_of(self._folder, index), "metrics")
            if answer:
                self._totals.update(index, *answer)
        return self._totals.collect()

    def describe(self) -> Iterable[Metric]:
        """Nothing: names are known when somebody asks."""
        return ()

    async def _tend(self, index: int) -> None:
        """The life of one process: started, and started again with back-off when it ends by itself."""
        loop, backoff_s = asyncio.get_running_loop(), FIRST_BACKOFF_S
        while not self._stopping.is_set():
            started_s = loop.time()
            process = await self._start(index)
            code = await process.wait()
            del self._running[index]
            self._totals.lost(index)
            self._forget_quotas(index)
            if self._stopping.is_set():
                return
            if loop.time() - started_s > STABLE_S:
                backoff_s = FIRST_BACKOFF_S
            log.error("router process ended", process=index, code=code, restart_in_s=backoff_s)
            await asyncio.sleep(backoff_s)
            backoff_s = min(LAST_BACKOFF_S, backoff_s * 2)

    async def _start(self, index: int) -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "router.processes.member",
            str(os.getpid()),
            f"process-{index}",
            stdin=asyncio.subprocess.PIPE,
            # Ctrl-C reaches only this process, which ends the others in order.
            process_group=0,
            # The folder is in use as long as one of them lives.
            pass_fds=(self._lock,),
        )
        self._running[index] = process
        self._totals.started(index, process.pid)
        if process.stdin is not None:
            process.stdin.write(encode(self._settings[index]))
            process.stdin.close()
        return process

    async def _all_ready(self, group: Iterable[int]) -> bool:
        """Waits until all of a group answer; False when a signal came first."""
        waiting, limit_s = set(group), asyncio.get_running_loop().time() + START_S
        started = dict.fromkeys(waiting, 0)
        while waiting and not self._stopping.is_set():
            for index in sorted(waiting):
                process = self._running.get(index)
                if process is None and started[index]:
                    raise _not_started(index, "ended before it was ready; its log is above")
                if process is not None:
                    started[index] = process.pid
                    if await ask(socket_of(self._folder, index), "pid") == process.pid:
                        waiting.discard(index)
            if asyncio.get_running_loop().time() > limit_s:
                raise _not_started(min(waiting), f"was not ready within {START_S:g} s; its log is above")
            await asyncio.sleep(0.05)
        return not self._stopping.is_set()

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            paths = [socket_of(self._folder, index) for index in range(self._count)]
            answers = await asyncio.gather(*(ask(path, "metrics") for path in paths))
            for index, answer in enumerate(answers):
                if answer:
                    self._totals.update(index, *answer)

    async def _stop(self, tasks: list[asyncio.Task[None]]) -> list[int | None]:
        """SIGTERM to all, SIGKILL to those that take too long."""
        self._stopping.set()
        running = list(self._running.values())
        for process in running:
            process.terminate()
        waits = [asyncio.create_task(process.wait()) for process in running]
        if waits:
            _, late = await asyncio.wait(waits, timeout=self._drain_s + 8.0)
            if late:
                for process in running:
                    if process.returncode is None:
                        process.kill()
                await asyncio.wait(late, timeout=5.0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return [process.returncode for process in running]

    def _forget_quotas(self, index: int) -> None:
        book = QuotaBook(self._folder, index, self._count)
        try:
            book.forget_process()
        finally:
            book.close()


def in_order(code: int | None) -> bool:
    """Whether a stopped process left nothing undone: one that was still starting had no drain to do."""
    return code in (0, -signal.SIGTERM)


def _reserve(text: str, option: str, held: ExitStack) -> Address:
    reserved = Reserved(Address.parse(text, option))
    held.callback(reserved.close)
    return reserved.address


def _not_started(index: int, why: str) -> Unavailable:
    return Unavailable(f"router process {index} {why}", reason=Reason.UNREACHABLE)


def _nth(frames_listen: str, index: int) -> str:
    """Each process has a port for frames of its own, counted from the one that was given."""
    if not frames_listen:
        return ""
    first = Address.parse(frames_listen, "--frames-listen")
    return Address(first.host, first.port + index if first.port else 0).text
