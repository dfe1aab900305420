"""The short way of the raw method: the right function, with the call's own metadata."""

from __future__ import annotations

import inspect
from typing import Any, NamedTuple

import grpc
import pytest

from router.gateway.handlers import ServiceHandlers


class Details(NamedTuple):
    method: str
    invocation_metadata: Any


async def raw_call(metadata: Any, raw: bytes, context: Any) -> bytes:
    return dict(metadata)["who"].encode() + raw


OTHER = grpc.unary_unary_rpc_method_handler(lambda request, context: request)
HANDLERS = ServiceHandlers("pkg.Service", {"Other": OTHER}, "Raw", raw_call)


async def test_each_call_has_its_own_metadata() -> None:
    handlers = [HANDLERS.service(Details("/pkg.Service/Raw", (("who", name),))) for name in ("a", "b")]
    for handler, name in zip(handlers, (b"a", b"b"), strict=True):
        assert handler is not None
        assert handler.request_deserializer is None
        assert handler.response_serializer is None
        assert not handler.request_streaming
        assert not handler.response_streaming
        call: Any = handler.unary_unary
        assert await call(b"1", None) == name + b"1"


class Greeter:
    def __init__(self, greeting: bytes) -> None:
        self._greeting = greeting

    async def call(self, metadata: Any, raw: bytes, context: Any) -> bytes:
        return self._greeting + dict(metadata)["who"].encode() + raw


async def test_a_method_is_called_on_its_object_and_known_for_a_coroutine_function() -> None:
    handlers = ServiceHandlers("pkg.Service", {}, "Raw", Greeter(b"hello ").call)
    handler = handlers.service(Details("/pkg.Service/Raw", (("who", "a"),)))
    assert handler is not None
    call: Any = handler.unary_unary
    assert inspect.iscoroutinefunction(call)
    assert await call(b"1", None) == b"hello a1"


@pytest.mark.parametrize(("method", "expected"), [("/pkg.Service/Other", OTHER), ("/pkg.Service/None", None)])
def test_other_methods_are_looked_up(method: str, expected: Any) -> None:
    assert HANDLERS.service(Details(method, ())) is expected


def test_the_service_has_a_name() -> None:
    assert HANDLERS.service_name() == "pkg.Service"
