"""The link port: agents connect here and stay; ciphertext is fetched here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Protocol

import grpc
import structlog

from partywall.clock import Clock
from partywall.errors import InvalidInput, NotFound, PermissionDenied, Unavailable
from partywall.v1 import agent_link_pb2 as link
from partywall.v1 import agent_link_pb2_grpc
from partywall.wire.coalesce import WINDOW_S
from partywall.wire.frames import Frames, PipeFrames, StreamFrames
from partywall.wire.tails import decoder, encode
from router.control.membership import Membership
from router.gateway.frames_port import Expected, FramesPort
from router.gateway.link import AgentSession

log = structlog.get_logger(__name__)

SERVICE = "partywall.v1.AgentLink"
FETCH_CHUNK_BYTES = 1 << 20
CHOICE_S = 10.0
"""How long an agent may take to open a connection for the frames, or to send the first one."""

_decode = decoder(link.AgentFrame.FromString)

Identify = Callable[["grpc.aio.ServicerContext[Any, Any]"], str]
"""The node name that the peer's certificate proves; raises for anything but an agent."""


class Blobs(Protocol):
    """Where sealed files are read from."""

    async def read(self, artifact_id: str, file: str, offset: int, length: int) -> bytes: ...


class Grants(Protocol):
    """Which artifacts an agent may read."""

    def may_fetch(self, node: str, artifact_id: str) -> bool: ...


def add_to_server(service: AgentLinkService, server: grpc.aio.Server) -> None:
    """Registers the service with frames that may have tails; the generated registration knows none."""
    methods: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        "Connect": grpc.stream_stream_rpc_method_handler(
            service.Connect, request_deserializer=_decode, response_serializer=encode
        ),
        "FetchFile": grpc.unary_stream_rpc_method_handler(
            service.FetchFile,
            request_deserializer=link.FetchFileRequest.FromString,
            response_serializer=link.FetchFileChunk.SerializeToString,
        ),
    }
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, methods)])


class AgentLinkService(agent_link_pb2_grpc.AgentLinkServicer):
    """One `Connect` call per live agent. A newer connection of a node replaces the older one."""

    def __init__(
        self,
        membership: Membership,
        identify: Identify,
        blobs: Blobs,
        grants: Grants,
        clock: Clock,
        *,
        heartbeat_s: float,
        max_message_bytes: int,
        window_s: float = WINDOW_S,
        links: Sequence[str] = (),
        frames: FramesPort | None = None,
        on_profile: Callable[[str, link.ProfileProgress], None] = lambda node, progress: None,
        on_event: Callable[[str, link.AgentEvent], None] = lambda node, event: None,
    ) -> None:
        """
        Args:
            window_s: How long calls may be gathered under load; 0.0: each is a frame of its own.
            links: Link ports of all processes of this router; agents hold a stream to each.
            frames: Where agents may open a connection for the frames; None: they stay on the stream.
            on_profile: Gets (node, progress) of profile jobs.
        """
        self._on_profile = on_profile
        self._on_event = on_event
        self._membership = membership
        self._identify = identify
        self._blobs = blobs
        self._grants = grants
        self._clock = clock
        self._heartbeat_ms = int(heartbeat_s * 1e3)
        self._max_message_bytes = max_message_bytes
        self._window_s = window_s
        self._links = links
        self._frames = frames

    async def Connect(self, request_iterator: Any, context: Any) -> None:  # type: ignore[override] # noqa: N802
        node = self._identify(context)
        opened = await context.read()
        first = None if opened is grpc.aio.EOF else opened.frame
        if first is None or not first.HasField("hello"):
            raise InvalidInput("the first frame of an agent must be its hello", fields={"field": "hello"})
        if first.hello.node != node:
            raise PermissionDenied(
                f"the certificate is of node {node!r} and the hello names {first.hello.node!r}; "
                "join this node with its own token (partywall fleet token)"
            )
        expected = self._frames.expect(node) if self._frames is not None else None
        try:
            await self._serve(first.hello, context, expected)
        finally:
            if self._frames is not None and expected is not None:
                self._frames.forget(expected)

    async def _serve(self, hello: link.Hello, context: Any, expected: Expected | None) -> None:
        node = hello.node
        session = AgentSession(hello, self._clock, self._window_s)
        await context.write(link.RouterFrame(welcome=self._welcome(expected)))
        # What comes on the stream: its end, or the first frame of an agent that stays on it.
        stream: asyncio.Task[Any] = asyncio.create_task(context.read())
        try:
            frames = await _chosen(context, stream, expected)
            old = self._membership.attach(session)
            if old is not None:
                old.close()
            log.info(
                "agent connected", node=node, incarnation=hello.incarnation, stream=isinstance(frames, StreamFrames)
            )
            await self._stay(session, frames, stream)
        finally:
            stream.cancel()
            self._membership.detach(session)
            log.info("agent gone", node=node)

    async def _stay(self, session: AgentSession, frames: Frames[link.AgentFrame], stream: asyncio.Task[Any]) -> None:
        """Until either side ends the link."""
        tasks = [
            asyncio.create_task(self._read(session, frames)),
            asyncio.create_task(session.run_writer(frames.write)),
            asyncio.create_task(session.ended.wait()),
        ]
        try:
            # A stream that carries frames is read by the first task; one that does not only ends.
            ends = tasks if stream.done() else [*tasks, stream]
            done, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                _log_end(session.node, task)
        finally:
            for task in tasks:
                task.cancel()

    def _welcome(self, expected: Expected | None) -> link.Welcome:
        welcome = link.Welcome(
            epoch=self._membership.epoch,
            heartbeat_ms=self._heartbeat_ms,
            max_message_bytes=self._max_message_bytes,
            links=self._links,
        )
        if self._frames is not None and expected is not None:
            welcome.frames, welcome.frames_secret = self._frames.address, expected.secret
        return welcome

    async def _read(self, session: AgentSession, frames: Frames[link.AgentFrame]) -> None:
        while (opened := await frames.read()) is not None:
            frame, tails = opened
            if frame.replies:
                session.on_replies(frame.replies, tails)
            self._membership.observe(session, frame)
            for progress in frame.profiles:
                self._on_profile(session.node, progress)
            for answer in frame.attested:
                session.on_attested(answer)
            for event in frame.events:
                log.warning("agent event", node=session.node, kind=event.kind, message=event.message)
                self._on_event(session.node, event)

    async def FetchFile(self, request: link.FetchFileRequest, context: Any) -> AsyncIterator[link.FetchFileChunk]:  # noqa: N802
        node = self._identify(context)
        if not self._grants.may_fetch(node, request.artifact_id):
            raise NotFound(f"no artifact {request.artifact_id!r} is placed on node {node!r}")
        offset = request.offset
        while data := await self._blobs.read(request.artifact_id, request.file, offset, FETCH_CHUNK_BYTES):
            yield link.FetchFileChunk(data=data)
            offset += len(data)


async def _chosen(context: Any, stream: asyncio.Task[Any], expected: Expected | None) -> Frames[link.AgentFrame]:
    """Waits until the agent has chosen where frames travel.

    Raises:
        Unavailable: It left, or chose nothing.
    """
    ways = [stream] if expected is None else [stream, expected.pipe]
    done, _ = await asyncio.wait(ways, timeout=CHOICE_S, return_when=asyncio.FIRST_COMPLETED)
    if expected is not None and expected.pipe in done:
        return PipeFrames(expected.pipe.result(), _decode)
    if not done or stream.result() is grpc.aio.EOF:
        raise Unavailable("the agent left, or sent no frame after its hello")
    return StreamFrames(context, stream.result())


def _log_end(node: str, task: asyncio.Task[Any]) -> None:
    error = None if task.cancelled() else task.exception()
    if error is not None:
        log.warning("link task ended", node=node, error=repr(error))
