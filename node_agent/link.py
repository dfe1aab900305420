"""The agent's end of the link: dials the router, stays, and comes back when it breaks.

Replicas go on standing while the link is away; only the callers behind it are gone.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import Any

import grpc
import structlog

from node_agent.connection import Connection, Devices
from node_agent.inbound import Inbound
from node_agent.link_seams import EpochGuard, ProfileJobs, Replicas
from node_agent.outbound import Outbound, beat
from partywall.clock import Clock
from partywall.domain.fleet import ReplicaStatus
from partywall.errors import PartywallError, Reason, Unavailable
from partywall.v1 import agent_link_pb2 as link
from partywall.v1 import agent_link_pb2_grpc, fleet_pb2
from partywall.wire.coalesce import WINDOW_S, Coalescer
from partywall.wire.convert import observed_to_proto
from partywall.wire.frames import Frames, PipeFrames, StreamFrames
from partywall.wire.pipe import FramePipe
from partywall.wire.status import from_rpc_error
from partywall.wire.tails import decoder, encode

log = structlog.get_logger(__name__)

CONNECT = "/partywall.v1.AgentLink/Connect"
FIRST_BACKOFF_S, LAST_BACKOFF_S = 0.1, 2.0
WELCOME_TIMEOUT_S = 10.0
DIAL_S = 2.0
"""How long the way to the router's port for frames may take."""
EVENTS_KEPT = 100

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
        self._events: deque[link.AgentEvent] = deque(maxlen=EVENTS_KEPT)
        self._channel_factory = channel_factory
        self._hello = hello
        self._replicas = replicas
        self._clock = clock
        self._window_s = window_s
        ids = request_ids or itertools.count(1)
        self._inbound = Inbound(replicas, epoch, clock, profiles, ids, self.report_profile)
        self._outbound = Outbound(replicas, clock, shared)
        self._on_welcome = on_welcome
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
                lambda items: self._outbound.flush(frames, connection, items),
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
            asyncio.create_task(self._inbound.read(frames, connection)),
            asyncio.create_task(connection.outgoing.run()),
            asyncio.create_task(beat(connection, first.welcome.heartbeat_ms / 1e3)),
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

    def _abandon(self) -> None:
        """The connection is gone: nobody waits for what is queued from it."""
        self.connected.clear()
        connection, self._current, self._stub = self._current, None, None
        self._inbound.abandon(connection)
