"""The agent's side of the zygote: start it, ask for workers, start it again when it dies."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Mapping, Sequence

from isolation.sandbox import SandboxPolicy
from node_agent.channel import Channel
from node_agent.work import WorkerExit
from node_agent.workers import WorkerHandle
from node_agent.zygote.process import ZygoteOptions, ZygoteProcess, kill, try_send
from node_agent.zygote.request import spawn_request
from partywall.domain.fleet import DeviceKind, Partition
from partywall.errors import PartywallError, Reason, Unavailable
from partywall.v1 import worker_pb2
from partywall.wire import convert

_PACKET_BYTES = 256 << 10
_FIRST_BACKOFF_S, _LAST_BACKOFF_S = 0.2, 5.0


class ZygoteClient:
    """Owns one zygote process and every worker forked from it. Belongs to one event loop.

    `launch` may come before the loop runs and must come before gRPC is touched; `start` waits until the imports are
    done.
    A zygote that dies takes its workers along; it is started again with back-off, and `spawn` waits for it.
    """

    def __init__(self, options: ZygoteOptions | None = None) -> None:
        self._options = options or ZygoteOptions()
        self._process: ZygoteProcess | None = None
        self._workers: dict[str, WorkerHandle] = {}
        self._forked: dict[str, asyncio.Future[worker_pb2.WorkerForked]] = {}
        self._keeper: asyncio.Task[None] | None = None
        self._died = asyncio.Event()
        self._closing = False
        self.restarts = 0

    @property
    def pid(self) -> int:
        """Process id of the zygote, 0 while there is none."""
        return self._process.popen.pid if self._process is not None else 0

    @property
    def workers(self) -> Mapping[str, WorkerHandle]:
        """The live ones, by id."""
        return self._workers

    def launch(self) -> None:
        """Starts the process without waiting for it. Call from the thread that lives as long as the agent: the kernel
        ends the zygote when the thread that started it ends."""
        if self._process is not None:
            return
        self._process = ZygoteProcess.launch(self._options)

    async def start(self) -> float:
        """Launches where that has not happened, and waits until it can fork. Returns the seconds its imports took.

        Raises:
            Unavailable: It ended or was not ready in time; the agent's log has what it printed.
        """
        loop = asyncio.get_running_loop()
        self.launch()
        process = self._current()
        if process.ready is None:
            process.ready = loop.create_future()
            loop.add_reader(process.control.fileno(), self._readable, process)
        if self._keeper is None:
            self._keeper = loop.create_task(self._keep())
        try:
            ready = await asyncio.wait_for(asyncio.shield(process.ready), self._options.ready_timeout_s)
        except TimeoutError as failure:
            raise Unavailable(
                f"the zygote was not ready in {self._options.ready_timeout_s:.0f} s; the agent's log says more",
                reason=Reason.WORKER_DIED,
            ) from failure
        return ready.import_seconds

    async def spawn(
        self,
        worker_id: str,
        partition: Partition,
        *,
        device_kind: DeviceKind = DeviceKind.CPU,
        modules: Sequence[str] = (),
        sandbox: SandboxPolicy | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> WorkerHandle:
        """Forks one worker into a partition; returns when its walls stand and it is attested.

        Args:
            worker_id: Unique among the live workers.
            partition: Its share of the device.
            device_kind: What device that is; a CPU worker sees no GPU.
            modules: Python files or module names with architectures.
            sandbox: What it may read and write beside the interpreter: the folders of its sealed files.
            environment: CUDA_* variables, set after the fork and before CUDA is touched.

        Raises:
            Unsupported: The partition or a required sandbox layer is not to be had here.
            Unavailable: The worker or the zygote ended before it was ready; another try may succeed.
        """
        await self.start()
        request = spawn_request(worker_id, partition, device_kind, modules, sandbox, environment)
        try:
            async with asyncio.timeout(self._options.spawn_timeout_s):
                return await self._spawn(request)
        except TimeoutError as failure:
            raise Unavailable(
                f"worker {worker_id} was not ready in {self._options.spawn_timeout_s:.0f} s; try again",
                reason=Reason.WORKER_DIED,
            ) from failure

    async def close(self, grace_s: float = 5.0) -> None:
        """Stops every worker, then the zygote. Safe to call twice."""
        self._closing = True
        await asyncio.gather(*(worker.stop(grace_s) for worker in list(self._workers.values())))
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        process, self._process = self._process, None
        if process is not None:
            self._unwatch(process)
            try_send(process.control, worker_pb2.ToZygote(stop=True))
            await asyncio.to_thread(process.end, grace_s)

    async def _spawn(self, request: worker_pb2.SpawnWorker) -> WorkerHandle:
        loop = asyncio.get_running_loop()
        if request.worker_id in self._workers:
            raise ValueError(f"worker {request.worker_id} is alive")
        channel, ends = Channel.create(self._options.arena_bytes)
        worker = WorkerHandle(request.worker_id, channel, kill, loop)
        self._workers[request.worker_id] = worker
        forked = self._forked[request.worker_id] = loop.create_future()
        worker.closed.add_done_callback(self._forget)
        try:
            with ends.socket:
                self._send_spawn(request, ends.descriptors())
            answer = await forked
            if answer.HasField("error"):
                raise convert.error_from_proto(answer.error)
            await asyncio.shield(worker.ready)
        except (PartywallError, asyncio.CancelledError) as failure:
            if worker.pid and worker.alive:
                kill(worker.pid, signal.SIGKILL)
            worker.on_exit(None, f"never became ready: {failure}")
            self._workers.pop(request.worker_id, None)
            raise
        finally:
            self._forked.pop(request.worker_id, None)
        return worker

    def _send_spawn(self, request: worker_pb2.SpawnWorker, descriptors: list[int]) -> None:
        data = worker_pb2.ToZygote(spawn=request).SerializeToString()
        try:
            socket.send_fds(self._current().control, [data], descriptors)
        except OSError as failure:
            raise Unavailable(f"the zygote does not take requests: {failure}", reason=Reason.WORKER_DIED) from failure

    def _readable(self, process: ZygoteProcess) -> None:
        try:
            data = process.control.recv(_PACKET_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self._on_death(process)
            return
        message = worker_pb2.FromZygote.FromString(data)
        kind = message.WhichOneof("kind")
        if kind == "ready" and process.ready is not None and not process.ready.done():
            process.ready.set_result(message.ready)
        elif kind == "forked":
            self._on_forked(message.forked)
        elif kind == "exited":
            worker = self._workers.get(message.exited.worker_id)
            # An earlier worker of the same name may be the one that ended.
            if worker is not None and worker.pid == message.exited.pid:
                worker.on_exit(message.exited.code)

    def _on_forked(self, forked: worker_pb2.WorkerForked) -> None:
        future = self._forked.get(forked.worker_id)
        if future is not None and not future.done():
            # At once: its exit may be the very next message.
            self._workers[forked.worker_id].pid = forked.pid
            future.set_result(forked)

    def _on_death(self, process: ZygoteProcess) -> None:
        self._unwatch(process)
        process.end(1.0)
        why = f"the zygote ended with status {process.popen.returncode}"
        if process.ready is not None and not process.ready.done():
            process.ready.set_exception(Unavailable(why, reason=Reason.WORKER_DIED))
            process.ready.exception()
        for future in self._forked.values():
            if not future.done():
                future.set_exception(Unavailable(why, reason=Reason.WORKER_DIED))
        for worker in list(self._workers.values()):
            worker.on_exit(None, f"{why} and took the worker along")
        if self._process is process:
            self._process = None
        self._died.set()

    async def _keep(self) -> None:
        backoff_s = _FIRST_BACKOFF_S
        while not self._closing:
            await self._died.wait()
            self._died.clear()
            await asyncio.sleep(backoff_s)
            self.restarts += 1
            try:
                await self.start()
                backoff_s = _FIRST_BACKOFF_S
            except (Unavailable, OSError) as failure:
                backoff_s = min(2 * backoff_s, _LAST_BACKOFF_S)
                if isinstance(failure, OSError):
                    # Not even started: nothing else will say that it is dead.
                    self._died.set()

    def _current(self) -> ZygoteProcess:
        if self._process is None:
            raise Unavailable("the zygote is being restarted; try again in a second", reason=Reason.WORKER_DIED)
        return self._process

    def _unwatch(self, process: ZygoteProcess) -> None:
        if process.ready is not None and process.control.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(process.control.fileno())

    def _forget(self, closed: asyncio.Future[WorkerExit]) -> None:
        worker = self._workers.get(closed.result().worker_id)
        if worker is not None and worker.closed is closed:
            del self._workers[worker.worker_id]
