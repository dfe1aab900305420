"""The one door to gRPC's inner layer (`grpc._cython.cygrpc`): what `grpc.server` and `grpc.aio` are made of themselves.

It is not public API. So everything that is used of it is named here, and `available` says whether this release of
gRPC has it; the public port is served by `grpc.aio` where it does not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import grpc
from grpc._cython import cygrpc as _cygrpc  # type: ignore[attr-defined,import-untyped,unused-ignore]

NO_FLAGS = 0
PAST = 0.0
"""A deadline that is over: `poll` answers at once."""

Tag = Callable[[Any], None]
"""What a completion is handed to, with its event."""

Pairs = Sequence[tuple[str, str | bytes]]


class CompletionQueue(Protocol):
    """Completions in the order in which they came. One thread at a time may ask."""

    def poll(self, deadline: float | None = None) -> Any: ...

    def shutdown(self) -> None: ...


class CoreCall(Protocol):
    """One call of the core; a batch of operations completes as one event."""

    def start_server_batch(self, operations: Sequence[Any], tag: Tag) -> int: ...

    def peer(self) -> bytes: ...


class CoreServer(Protocol):
    """The core's server."""

    def register_completion_queue(self, queue: CompletionQueue) -> None: ...

    def add_http2_port(self, address: bytes, credentials: Any = None) -> int: ...

    def start(self) -> None: ...

    def request_call(self, call_queue: CompletionQueue, server_queue: CompletionQueue, tag: Tag) -> int: ...

    def shutdown(self, queue: CompletionQueue, tag: Tag) -> None: ...

    def cancel_all_calls(self) -> None: ...

    def destroy(self) -> None: ...


def _named(path: str) -> Any:
    found: Any = _cygrpc
    for name in path.split("."):
        found = getattr(found, name, None)
    return found


TIMEOUT: Any = _named("CompletionType.queue_timeout")
SHUTDOWN: Any = _named("CompletionType.queue_shutdown")
ReceiveMessage: Callable[[int], Any] = _named("ReceiveMessageOperation")
ReceiveClose: Callable[[int], Any] = _named("ReceiveCloseOnServerOperation")
SendInitialMetadata: Callable[[Pairs | None, int], Any] = _named("SendInitialMetadataOperation")
SendMessage: Callable[[bytes, int], Any] = _named("SendMessageOperation")
SendStatus: Callable[[Pairs | None, int, bytes, int], Any] = _named("SendStatusFromServerOperation")
_Server: Callable[..., CoreServer] = _named("Server")
_CompletionQueue: Callable[[], CompletionQueue] = _named("CompletionQueue")

_USED = (
    *("CompletionType.queue_timeout", "CompletionType.queue_shutdown", "CompletionQueue.poll"),
    *("CompletionQueue.shutdown", "ReceiveMessageOperation", "ReceiveCloseOnServerOperation"),
    *("SendInitialMetadataOperation", "SendMessageOperation", "SendStatusFromServerOperation"),
    *("Call.start_server_batch", "Call.peer", "Server.register_completion_queue", "Server.add_http2_port"),
    *("Server.start", "Server.request_call", "Server.shutdown", "Server.cancel_all_calls", "Server.destroy"),
)


def missing() -> list[str]:
    """What this release of gRPC lacks of what is used; empty: all is there."""
    return [path for path in _USED if _named(path) is None]


def inner(credentials: grpc.ServerCredentials) -> Any:
    """What the core knows of credentials."""
    return credentials._credentials  # type: ignore[attr-defined]  # noqa: SLF001


def new_server(options: Sequence[tuple[str, Any]]) -> tuple[CoreServer, CompletionQueue]:
    """A server and the queue that its calls complete on."""
    server, queue = _Server(tuple(options), False), _CompletionQueue()
    server.register_completion_queue(queue)
    return server, queue
