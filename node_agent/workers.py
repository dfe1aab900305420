"""A worker as the agent sees it: load, unload, run batches, and know at once when it is gone."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from node_agent.channel import Channel
from node_agent.work import Batch, BatchDone, LoadResult, ParkResult, WorkerExit, WorkResult, describe_exit
from partywall.errors import Reason, Unavailable
from partywall.v1 import worker_pb2
from partywall.wire import convert


@dataclass(slots=True)
class _Running:
    future: asyncio.Future[BatchDone]
    mark: int


_Pending: TypeAlias = dict[int, asyncio.Future[Any]]


@dataclass(slots=True)
class WorkerHandle:
    """One worker process. All methods belong to the loop's thread; batches run in the order they are submitted."""

    worker_id: str
    channel: Channel
    kill: Callable[[int, int], None]
    """How a signal reaches the process: `os.kill`, or a simulated one."""
    loop: asyncio.AbstractEventLoop
    pid: int = 0
    attested: Mapping[str, str] = field(default_factory=dict)
    exit_report_s: float = 2.0
    """The socket's end and the zygote's report come from two processes; how long one waits for the other."""
    closed: asyncio.Future[WorkerExit] = field(init=False)
    ready: asyncio.Future[None] = field(init=False)
    _batches: dict[int, _Running] = field(init=False, default_factory=dict)
    _loads: _Pending = field(init=False, default_factory=dict)
    _unloads: _Pending = field(init=False, default_factory=dict)
    _next_batch: int = field(init=False, default=0)
    _lost: str = field(init=False, default="")
    _timer: asyncio.TimerHandle | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.closed = self.loop.create_future()
        self.ready = self.loop.create_future()
        self.channel.attach(self.loop, self._on_message, self._on_channel_closed)

    @property
    def alive(self) -> bool:
        """False as soon as the end is known, before `closed` knows why."""
        return not self._lost and not self.closed.done()

    @property
    def in_flight(self) -> int:
        """Batches submitted and not answered; two keep the worker busy while the agent prepares the next."""
        return len(self._batches)

    @property
    def loading(self) -> bool:
        """Whether it loads or unloads: batches wait inside it until that is done."""
        return bool(self._loads or self._unloads)

    def abort(self, why: str) -> None:
        """Ends the process at once; what is pending fails with `why`."""
        # Before the kill: the socket's end may be read at once, and is not the reason.
        self._lost = self._lost or why
        if self.pid:
            self.kill(self.pid, signal.SIGKILL)
        self.on_exit(None, why)

    async def load(self, request: worker_pb2.LoadReplica) -> LoadResult:
        """Makes a replica resident; its handle must be new to this worker.

        Raises:
            PartywallError: The worker's refusal (ArtifactRefused, DataLoss, QuotaExceeded, ...).
            Unavailable: The worker died.
        """
        future = self._expect(self._loads, request.handle)
        self.channel.send(worker_pb2.ToWorker(load=request))
        result: LoadResult = await future
        return result

    async def unload(self, handle: int) -> None:
        """Releases a replica; returns when its memory is free. An unknown handle is no error."""
        future = self._expect(self._unloads, handle)
        self.channel.send(worker_pb2.ToWorker(unload=worker_pb2.UnloadReplica(handle=handle)))
        await future

    async def park(self, handle: int) -> ParkResult:
        """Takes a replica out of service; its weights stay, off the device. A load of the same handle wakes it."""
        future = self._expect(self._unloads, handle)
        self.channel.send(worker_pb2.ToWorker(park=worker_pb2.ParkReplica(handle=handle)))
        result: ParkResult = await future
        return result

    def submit(self, batch: Batch) -> asyncio.Future[BatchDone]:
        """Sends one batch. The future fails with Unavailable(WORKER_DIED) when the worker ends before it answers."""
        future: asyncio.Future[BatchDone] = self.loop.create_future()
        if not self.alive:
            future.set_exception(self._died())
            return future
        self._next_batch += 1
        message = worker_pb2.ToWorker()
        run = message.run
        run.batch_id, run.handle = self._next_batch, batch.handle
        if batch.repeat > 1:
            run.repeat = batch.repeat
        pack = self.channel.pack
        for item in batch.items:
            entry = run.items.add(id=item.id, deadline_us=item.deadline_us)
            pack(entry.request, item.request)
        self._batches[self._next_batch] = _Running(future, self.channel.arena_mark)
        self.channel.send(message)
        return future

    async def stop(self, grace_s: float) -> WorkerExit:
        """Asks the worker to end after the batches it has, then kills it; returns how it ended."""
        if self.alive:
            self.channel.send(worker_pb2.ToWorker(stop=True))
        try:
            return await asyncio.wait_for(asyncio.shield(self.closed), grace_s)
        except TimeoutError:
            if self.pid:
                self.kill(self.pid, signal.SIGKILL)
            return await asyncio.shield(self.closed)

    def on_exit(self, code: int | None, message: str = "") -> None:
        """The zygote's report; completes `closed` and fails whatever is pending."""
        if self.closed.done():
            return
        # Answers that lie in the socket still count.
        self.channel.drain()
        if self._timer is not None:
            self._timer.cancel()
        text = message or describe_exit(code)
        self._lost = self._lost or text
        self.channel.close()
        self._fail_pending()
        self.closed.set_result(WorkerExit(self.worker_id, self.pid, code, text))

    def _expect(self, table: _Pending, handle: int) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = self.loop.create_future()
        if not self.alive:
            future.set_exception(self._died())
        else:
            table[handle] = future
        return future

    def _died(self) -> Unavailable:
        return Unavailable(
            f"worker {self.worker_id} ended ({self._lost}); send the request again",
            reason=Reason.WORKER_DIED,
            fields={"worker": self.worker_id},
        )

    def _on_message(self, message: worker_pb2.FromWorker) -> None:
        kind = message.WhichOneof("kind")
        if kind == "done":
            self._on_done(message.done)
        elif kind == "loaded":
            self._on_loaded(message.loaded)
        elif kind == "unloaded":
            _resolve(self._unloads.pop(message.unloaded, None), None)
        elif kind == "parked":
            _resolve(self._unloads.pop(message.parked.handle, None), _park_result(message.parked))
        elif kind == "ready":
            self._on_ready(message.ready)

    def _on_ready(self, ready: worker_pb2.WorkerReady) -> None:
        self.attested = dict(ready.attested)
        if not ready.HasField("error"):
            _resolve(self.ready, None)
        elif not self.ready.done():
            self.ready.set_exception(convert.error_from_proto(ready.error))

    def _on_done(self, done: worker_pb2.BatchDone) -> None:
        unpack = self.channel.unpack
        results = [
            WorkResult(r.id, b"", convert.error_from_proto(r.error))
            if r.HasField("error")
            else WorkResult(r.id, unpack(r.response))
            for r in done.results
        ]
        if done.arena_mark:
            self.channel.consumed(done.arena_mark)
        # Only now: a result that cannot be read ends the channel, and this batch must then fail with the others.
        running = self._batches.pop(done.batch_id, None)
        if running is not None:
            self.channel.release(running.mark)
            _resolve(running.future, BatchDone(done.handle, results, done.service_us, done.exhausted_rows))

    def _on_loaded(self, result: worker_pb2.LoadResult) -> None:
        future = self._loads.pop(result.handle, None)
        if result.ok:
            signature = convert.signature_from_proto(result.signature)
            figures = result.memory_bytes, result.load_seconds, result.woken_bytes, result.wake_seconds
            _resolve(future, LoadResult(result.handle, signature, *figures))
        elif future is not None and not future.done():
            future.set_exception(convert.error_from_proto(result.error))

    def _on_channel_closed(self, why: str) -> None:
        self._lost = self._lost or why
        self._fail_pending()
        # The exit status follows from the zygote; without it the end is reported all the same.
        self._timer = self.loop.call_later(self.exit_report_s, self._give_up)

    def _give_up(self) -> None:
        if self.pid:
            self.kill(self.pid, signal.SIGKILL)
        self.on_exit(None, self._lost)

    def _fail_pending(self) -> None:
        pending = [
            *self._loads.values(),
            *self._unloads.values(),
            *(b.future for b in self._batches.values()),
            self.ready,
        ]
        self._loads.clear()
        self._unloads.clear()
        self._batches.clear()
        for future in pending:
            if not future.done():
                future.set_exception(self._died())
        # Nobody may be waiting for `ready` any more.
        if self.ready.done() and not self.ready.cancelled():
            self.ready.exception()


def _resolve(future: asyncio.Future[Any] | None, value: object) -> None:
    if future is not None and not future.done():
        future.set_result(value)


def _park_result(message: worker_pb2.ParkResult) -> ParkResult:
    return ParkResult(
        message.kept,
        message.reason,
        message.host_bytes,
        message.moved_bytes,
        message.seconds,
        message.pinned,
        message.device_bytes,
    )
