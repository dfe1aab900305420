"""The link port: agents connect here and stay; ciphertext is fetched here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Protocol

import grpc
import structlog

from partywall.clock import Clock
from partywall.errors import InvalidInput, NotFound, PermissionDenied
from partywall.v1 import agent_link_pb2 as link
from partywall.v1 import agent_link_pb2_grpc
from partywall.wire.coalesce import WINDOW_S
from partywall.wire.tails import decoder, encode
from router.control.membership import Membership
from router.gateway.link import AgentSession

log = structlog.get_logger(__name__)

SERVICE = "partywall.v1.AgentLink"
FETCH_CHUNK_BYTES = 1 << 20

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
            service.Connect, request_deserializer=decoder(link.AgentFrame.FromString), response_serializer=encode
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
        on_profile: Callable[[str, link.ProfileProgress], None] = lambda node, progress: None,
        on_event: Callable[[str, link.AgentEvent], None] = lambda node, event: None,
    ) -> None:
        """
        Args:
            window_s: How long calls may be gathered under load; 0.0: each is a frame of its own.
            links: Link ports of all processes of this router; agents hold a stream to each.
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
        session = AgentSession(first.hello, self._clock, self._window_s)
        await context.write(
            link.RouterFrame(
                welcome=link.Welcome(
                    epoch=self._membership.epoch,
                    heartbeat_ms=self._heartbeat_ms,
                    max_message_bytes=self._max_message_bytes,
                    links=self._links,
                )
            )
        )
        tasks = (
            asyncio.create_task(self._read(session, context)),
            asyncio.create_task(session.run_writer(context.write)),
            asyncio.create_task(session.ended.wait()),
        )
        log.info("agent connected", node=node, incarnation=session.hello.incarnation)
        old = self._membership.attach(session)
        if old is not None:
            old.close()
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                _log_end(node, task)
        finally:
            for task in tasks:
                task.cancel()
            self._membership.detach(session)
            log.info("agent gone", node=node)

    async def _read(self, session: AgentSession, context: Any) -> None:
        while (opened := await context.read()) is not grpc.aio.EOF:
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


def _log_end(node: str, task: asyncio.Task[Any]) -> None:
    error = None if task.cancelled() else task.exception()
    if error is not None:
        log.warning("link task ended", node=node, error=repr(error))
