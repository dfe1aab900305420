"""gRPC's handlers of the Open Inference Protocol, with a short way for `ModelInfer`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, TypeAlias

import grpc

Metadata: TypeAlias = tuple[tuple[str, str | bytes], ...]
RawUnary: TypeAlias = Callable[[Metadata, bytes, "grpc.aio.ServicerContext[bytes, bytes]"], Awaitable[bytes]]


class _RawCall(grpc.RpcMethodHandler):  # type: ignore[type-arg]
    """One unary call over bytes; made anew for each, as `unary_unary` knows the call's metadata."""

    __slots__ = ("unary_unary",)

    request_streaming = False
    response_streaming = False
    request_deserializer = None
    response_serializer = None
    unary_stream = None
    stream_unary = None
    stream_stream = None

    def __init__(self, unary_unary: Callable[[bytes, Any], Any]) -> None:
        self.unary_unary = unary_unary


class ServiceHandlers(grpc.ServiceRpcHandler):
    """Handlers by full method name. The raw call's function gets the metadata that gRPC has at hand when it looks the
    method up; asking the context for it would convert it a second time, which costs a twentieth of the call."""

    def __init__(
        self,
        service: str,
        methods: Mapping[str, grpc.RpcMethodHandler[Any, Any]],
        raw_method: str,
        raw_call: RawUnary,
    ) -> None:
        self._service = service
        self._methods = {f"/{service}/{name}": handler for name, handler in methods.items()}
        self._raw_path = f"/{service}/{raw_method}"
        # gRPC asks `inspect` at each call whether the handler is a coroutine function, and it takes twice as long to
        # answer for a method as for its function.
        self._raw_call: Callable[..., Awaitable[bytes]] = getattr(raw_call, "__func__", raw_call)
        self._raw_self = (raw_call.__self__,) if hasattr(raw_call, "__self__") else ()

    def service_name(self) -> str:
        return self._service

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        if handler_call_details.method == self._raw_path:
            return _RawCall(partial(self._raw_call, *self._raw_self, handler_call_details.invocation_metadata))
        return self._methods.get(handler_call_details.method)
