"""The agent's end of the link: dials the router, stays, and comes back when it breaks.

Replicas go on standing while the link is away; only the callers behind it are gone.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Any

import grpc
import structlog

from node_agent.connection import Answer, CallContext, Connection, Devices, Outgoing, add_reply
from node_agent.link_seams import EpochGuard, ProfileJobs, Replicas
from node_agent.queueing import Queued
from partywall.clock import Clock
from partywall.domain.fleet import ReplicaStatus
from partywall.errors import PartywallError, Reason, Unavailable, Unsupported
from partywall.v1 import agent_link_pb2 as link
from partywall.v1 import agent_link_pb2_grpc, fleet_pb2
from partywall.wire.coalesce import WINDOW_S, Coalescer
from partywall.wire.convert import error_to_proto, observed_to_proto
from partywall.wire.frames import Frames, PipeFrames, StreamFrames
from partywall.wire.pipe import FramePipe
from partywall.wire.status import from_rpc_error
from partywall.wire.tails import decoder, encode, join

log = structlog.get_logger(__name__)

CONNECT = "/partywall.v1.AgentLink/Connect"
MAX_FRAME_BYTES = 4 << 20
FIRST_BACKOFF_S, LAST_BACKOFF_S = 0.1, 2.0
WELCOME_TIMEOUT_S = 10.0
DIAL_S = 2.0
"""How long the way to the router's port for frames may take."""
EVENTS_KEPT = 100
LOADS_EVERY_S = 0.02
"""How often replies carry loads, where several processes send requests here."""

Dial = Callable[[str], Awaitable[FramePipe]]
"""Opens the connection to an address, host:port as the router names it; raises OSError (TimeoutError is one)."""

_decode = decoder(link.RouterFrame.FromString)


class RouterLink:
    """One link to one router process. `run` lives until it is cancelled; `hello` is asked anew for each connection."""

    def __init__(
        self,
        channel_factory: Callable[[], grpc.aio.Channel],
        hello: Callable[[], link.Hello],
        replicas: Replicas,
        epoch: EpochGuard,
        clock: Clock,
        window_s: float = WINDOW_S,
        profiles: ProfileJobs | None = None,
        *,
        request_ids: Iterator[int] | None = None,
        on_welcome: Callable[[Sequence[str]], None] = lambda links: None,
        shared: Callable[[], bool] = lambda: False,
        dial: Dial | None = None,
    ) -> None:
        """
        Args:
            window_s: How long replies may be gathered under load; 0.0: each is a frame of its own.
            profiles: Who measures versions here; None: profile jobs are refused.
            request_ids: Links that feed the same queues draw from one source, so that no number comes twice.
            on_welcome: Gets the link ports of all processes of the router, with each connection.
            shared: Whether other processes send requests here too: replies then carry loads, as no process can know
                the load from what it sent itself.
            dial: Opens the connection for the frames where the router offers one; None: they stay on the stream.
        """
        self._dial = dial
        self._stay_on_stream = False
        self._profiles = profiles
        self._jobs: list[str] = []
        self._events: deque[link.AgentEvent] = deque(maxlen=EVENTS_KEPT)
        self._channel_factory = channel_factory
        self._hello = hello
        self._replicas = replicas
        self._epoch = epoch
        self._clock = clock
        self._window_s = window_s
        self._request_ids = request_ids or itertools.count(1)
        self._on_welcome = on_welcome
        self._shared = shared
        self._current: Connection | None = None
        self._stub: agent_link_pb2_grpc.AgentLinkAsyncStub | None = None
        self.connected = asyncio.Event()

    async def run(self) -> None:
        try:
            await self._dial_for_ever()
        finally:
            self._abandon()

    async def _dial_for_ever(self) -> None:
        backoff_s = FIRST_BACKOFF_S
        while True:
            try:
                async with self._channel_factory() as channel:
                    await self._stay(channel)
                reason = "the router closed the link"
            except grpc.RpcError as failure:
                reason = from_rpc_error(failure).message
            except (PartywallError, TimeoutError) as failure:
                reason = str(failure)
            if self.connected.is_set():
                backoff_s = FIRST_BACKOFF_S
            self._abandon()
            log.warning("link to the router is down", reason=reason, retry_in_s=round(backoff_s, 2))
            await asyncio.sleep(backoff_s * random.uniform(0.5, 1.0))  # noqa: S311 - spreads reconnects, no secret
            backoff_s = min(LAST_BACKOFF_S, backoff_s * 2)

    def report(self, status: ReplicaStatus) -> None:
        """Tells the router of a replica's new state; while the link is away, the next hello's full report does."""
        if self._current is not None:
            self._current.outgoing.add(observed_to_proto(status))

    def report_devices(self, devices: Sequence[fleet_pb2.Device]) -> None:
        """Tells the router that a device changed; while the link is away, the next hello does."""
        if self._current is not None:
            self._current.outgoing.add(Devices(tuple(devices)))

    def event(self, event: link.AgentEvent) -> None:
        """Tells the router what happened; while the link is away, the newest are kept for it."""
        if self._current is not None:
            self._current.outgoing.add(event)
        else:
            self._events.append(event)

    def report_profile(self, progress: link.ProfileProgress) -> None:
        """Tells the router of a profile job; while the link is away nobody waits for it."""
        if self._current is not None:
            self._current.outgoing.add(progress)

    async def fetch(self, artifact_id: str, file: str, offset: int) -> AsyncIterator[bytes]:
        """Ciphertext of a file from `offset` on.

        Raises:
            Unavailable: The link is down or breaks.
        """
        stub = self._stub
        if stub is None:
            raise Unavailable("the link to the router is down; the file is fetched when it is back")
        try:
            request = link.FetchFileRequest(artifact_id=artifact_id, file=file, offset=offset)
            async for chunk in stub.FetchFile(request):
                yield chunk.data
        except grpc.RpcError as failure:
            raise from_rpc_error(failure) from failure
        except asyncio.CancelledError as failure:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            # gRPC's word for a channel that was closed here, under the call, as the link broke.
            raise Unavailable("the link to the router broke; the file is fetched when it is back") from failure

    async def _stay(self, channel: grpc.aio.Channel) -> None:
        stub = agent_link_pb2_grpc.AgentLinkStub(channel)
        call: Any = channel.stream_stream(CONNECT, request_serializer=encode, response_deserializer=_decode)()
        async with asyncio.timeout(WELCOME_TIMEOUT_S):
            await call.write(link.AgentFrame(hello=self._hello()))
            opened = await call.read()
        first = None if opened is grpc.aio.EOF else opened.frame
        if first is None or not first.HasField("welcome"):
            raise Unavailable("the router did not welcome this agent", reason=Reason.UNREACHABLE)
        connection = Connection(
            Coalescer(
                lambda items: self._flush(frames, connection, items),
                self._clock,
                lambda: len(connection.outgoing) + len(connection.calls),
                window_s=self._window_s,
            )
        )
        pipe = await self._open_pipe(first.welcome)
        frames: Frames[link.RouterFrame] = StreamFrames(call) if pipe is None else PipeFrames(pipe, _decode)
        self._current, self._stub = connection, stub
        self._on_welcome(tuple(first.welcome.links))
        for status in self._replicas.statuses():
            connection.outgoing.add(observed_to_proto(status))
        while self._events:
            connection.outgoing.add(self._events.popleft())
        self.connected.set()
        log.info("linked to the router", epoch=first.welcome.epoch, on_stream=pipe is None)
        tasks = [
            asyncio.create_task(self._read(frames, connection)),
            asyncio.create_task(connection.outgoing.run()),
            asyncio.create_task(_beat(connection, first.welcome.heartbeat_ms / 1e3)),
        ]
        if pipe is not None:
            # Nothing comes on the stream any more but its end.
            tasks.append(asyncio.create_task(call.read()))
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            call.cancel()
            if pipe is not None:
                pipe.close()
                # Whoever is there does not know us, a port that is forwarded elsewhere perhaps: the stream is left.
                self._stay_on_stream = not connection.heard

    async def _open_pipe(self, welcome: link.Welcome) -> FramePipe | None:
        """A connection for the frames; None where none is offered or there is no way to it."""
        if self._dial is None or not welcome.frames or self._stay_on_stream:
            self._stay_on_stream = False
            return None
        try:
            async with asyncio.timeout(DIAL_S):
                pipe = await self._dial(welcome.frames)
                await pipe.write(welcome.frames_secret)
        except (OSError, PartywallError) as failure:
            log.warning(
                "no way to the router's port for frames: they stay on the stream, which costs more CPU "
                "(router --frames-listen gives it a fixed port)",
                address=welcome.frames,
                reason=str(failure) or type(failure).__name__,
            )
            return None
        return pipe

    async def _read(self, frames: Frames[link.RouterFrame], connection: Connection) -> None:
        while (opened := await frames.read()) is not None:
            connection.heard = True
            frame, tails = opened
            if frame.HasField("desired"):
                self._on_desired(connection, frame.desired)
            if frame.HasField("handles"):
                self._take_handles(connection, ((one.placement_id, one.handle) for one in frame.handles.entries))
            if frame.calls:
                now_s = self._clock.monotonic()
                for message in frame.calls:
                    request = tails[message.tail - 1] if message.tail else message.request
                    self._on_call(connection, message, request, now_s)
            if frame.attest:
                connection.attesting = asyncio.create_task(self._attest(connection, frame.attest))
            for job in frame.profile_jobs:
                self._start_profile(job)
            for job_id in frame.profile_cancels:
                self._cancel_profile(job_id)
            for call_id in frame.cancels:
                known = connection.calls.pop(call_id, None)
                if known is not None:
                    self._replicas.cancel(known[1], known[0])

    def _on_desired(self, connection: Connection, desired: link.Desired) -> None:
        if not self._epoch.accept(desired.epoch):
            log.warning("stale leader refused", epoch=desired.epoch, seen=self._epoch.seen)
            return
        connection.generation = desired.generation
        self._take_handles(connection, ((spec.placement_id, spec.handle) for spec in desired.placements))
        self._replicas.apply(desired.placements)

    def _take_handles(self, connection: Connection, pairs: Iterable[tuple[str, int]]) -> None:
        # What was sent before the router took a replica away still finds it: it drains.
        standing = {status.placement_id for status in self._replicas.statuses()}
        leaving = {handle: name for handle, name in connection.placements.items() if name in standing}
        connection.handles = dict(pairs)
        connection.placements = leaving | {handle: name for name, handle in connection.handles.items()}

    async def _attest(self, connection: Connection, number: int) -> None:
        connection.outgoing.add(link.Attested(number=number, replicas=await self._replicas.attest()))

    def _start_profile(self, job: link.ProfileJob) -> None:
        if self._profiles is None:
            error = Unsupported("this agent takes no profile jobs; choose another node (--node)")
            self.report_profile(link.ProfileProgress(id=job.id, error=error_to_proto(error)))
            return
        self._jobs.append(job.id)
        self._profiles.start(job)

    def _cancel_profile(self, job_id: str) -> None:
        if self._profiles is not None and job_id in self._jobs:
            self._jobs.remove(job_id)
            self._profiles.cancel(job_id)

    def _on_call(
        self, connection: Connection, message: link.InferCall, request: bytes | memoryview, now_s: float
    ) -> None:
        deadline_s = now_s + message.timeout_us / 1e6
        placement_id = connection.placements.get(message.handle, "")
        item = Queued(
            id=next(self._request_ids),
            handle=0,
            rows=max(1, message.rows),
            request=request,
            arrived_s=now_s,
            deadline_s=deadline_s,
            due_s=deadline_s,
            context=CallContext(connection, message.id),
        )
        connection.calls[message.id] = (item.id, placement_id)
        self._replicas.submit(placement_id, item)

    async def _flush(self, frames: Frames[link.RouterFrame], connection: Connection, items: list[Outgoing]) -> None:
        frame, tails, size = link.AgentFrame(generation=connection.generation), list[bytes](), 0
        for item in items:
            if isinstance(item, Answer):
                length = len(item.outcome.response)
                if size and size + length > MAX_FRAME_BYTES:
                    await frames.write(join(frame, tails) if tails else frame)
                    frame, tails, size = link.AgentFrame(generation=connection.generation), [], 0
                add_reply(frame, tails, item.call_id, item.outcome)
                size += length
            elif isinstance(item, link.Observed):
                frame.observed.append(item)
            elif isinstance(item, link.AgentEvent):
                frame.events.append(item)
            elif isinstance(item, link.ProfileProgress):
                frame.profiles.append(item)
            elif isinstance(item, link.Attested):
                frame.attested.append(item)
            elif isinstance(item, Devices):
                frame.devices.extend(item.messages)
            else:
                frame.heartbeat = True
        if frame.heartbeat or self._loads_due(connection):
            self._add_loads(frame, connection)
        await frames.write(join(frame, tails) if tails else frame)

    def _loads_due(self, connection: Connection) -> bool:
        return self._shared() and self._clock.monotonic() - connection.loads_at_s >= LOADS_EVERY_S

    def _add_loads(self, frame: link.AgentFrame, connection: Connection) -> None:
        connection.loads_at_s = self._clock.monotonic()
        for load in self._replicas.loads():
            handle = connection.handles.get(load.placement_id)
            if handle is not None:
                frame.loads.add(
                    handle=handle,
                    queued_rows=load.queued_rows,
                    running_rows=load.running_rows,
                    backlog_us=int(load.backlog_s * 1e6),
                    quiet_ms=int(load.quiet_s * 1e3),
                )

    def _abandon(self) -> None:
        """The connection is gone: nobody waits for what is queued from it."""
        self.connected.clear()
        for job_id in list(self._jobs):
            self._cancel_profile(job_id)
        connection, self._current, self._stub = self._current, None, None
        if connection is None:
            return
        connection.open = False
        calls, connection.calls = connection.calls, {}
        for request_id, placement_id in calls.values():
            self._replicas.cancel(placement_id, request_id)


async def _beat(connection: Connection, period_s: float) -> None:
    while True:
        connection.outgoing.add(None)
        await asyncio.sleep(period_s)
