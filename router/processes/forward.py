"""Calls that only the leading process serves, passed on by the others: bytes and metadata as they came.

The leading process checks the credential itself: nothing is trusted because it came this way.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

from partywall.errors import Reason, Unavailable
from partywall.wire.status import to_status
from router.control.rpc import Metadata

LEADER_SOCKET = "leader.sock"
_OWN_PREFIXES = ("grpc-", ":")
_OWN = ("user-agent", "te", "content-type")


def leader_address(folder: Path) -> str:
    """Where the leading process takes calls from the others."""
    return f"unix:{folder / LEADER_SOCKET}"


class Forwarder:
    """Handlers for a service of the leading process, on one channel to it."""

    def __init__(self, folder: Path, max_message_bytes: int) -> None:
        limit = 2 * max_message_bytes
        self._channel = grpc.aio.insecure_channel(
            leader_address(folder),
            [
                ("grpc.max_receive_message_length", limit),
                ("grpc.max_send_message_length", limit),
                # A leader that comes back is found at once: the others would wait for gRPC's back-off.
                ("grpc.initial_reconnect_backoff_ms", 100),
                ("grpc.max_reconnect_backoff_ms", 500),
            ],
        )

    def handler(self, service: ServiceDescriptor) -> grpc.GenericRpcHandler:
        """All methods of a service."""
        methods = {method.name: self._method(service, method) for method in service.methods}
        return grpc.method_handlers_generic_handler(service.full_name, methods)

    async def close(self) -> None:
        await self._channel.close()

    def _method(self, service: ServiceDescriptor, method: MethodDescriptor) -> grpc.RpcMethodHandler[Any, Any]:
        asks = "stream" if method.client_streaming else "unary"
        answers = "stream" if method.server_streaming else "unary"
        kind = f"{asks}_{answers}"
        call = getattr(self._channel, kind)(f"/{service.full_name}/{method.name}")
        make = getattr(grpc, f"{kind}_rpc_method_handler")
        handler: grpc.RpcMethodHandler[Any, Any] = make(_streamed(call) if method.server_streaming else _single(call))
        return handler


def _single(call: Any) -> Any:
    async def forward(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
        try:
            answer: bytes = await call(request, **_terms(context))
        except grpc.aio.AioRpcError as failure:
            await _end(context, failure)
            raise
        return answer

    return forward


def _streamed(call: Any) -> Any:
    async def forward(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[bytes]:
        try:
            async for answer in call(request, **_terms(context)):
                yield answer
        except grpc.aio.AioRpcError as failure:
            await _end(context, failure)

    return forward


def _terms(context: grpc.aio.ServicerContext[Any, Any]) -> dict[str, Any]:
    metadata: Metadata = context.invocation_metadata() or ()
    kept = tuple((k, v) for k, v in metadata if k not in _OWN and not k.startswith(_OWN_PREFIXES))
    return {"metadata": kept, "timeout": context.time_remaining()}


async def _end(context: grpc.aio.ServicerContext[Any, Any], failure: grpc.aio.AioRpcError) -> None:
    """The leading process's own refusal as it is; that it is away, as ours."""
    trailing = tuple(failure.trailing_metadata() or ())
    if failure.code() is grpc.StatusCode.UNAVAILABLE and not trailing:
        await context.abort_with_status(
            to_status(
                Unavailable(
                    "the leading router process is being started again; send the call again",
                    reason=Reason.UNREACHABLE,
                    retry_after_s=1.0,
                )
            )
        )
    await context.abort(failure.code(), failure.details() or "", trailing)
