"""The two transports that perform a flow's actions: blocking gRPC and gRPC for asyncio."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any, TypeVar

import grpc
import grpc.aio

from partywall.client.endpoint import Endpoint
from partywall.client.flow import Action, Call, Flow, Sleep, Upload
from partywall.client.retry import EXECUTED_FIELD
from partywall.errors import InvalidInput, Reason, Unavailable
from partywall.wire.status import broke_while_sending, from_rpc_error

T = TypeVar("T")

# gRPC's own words for "no connection was made": the request cannot have reached anybody.
_NEVER_CONNECTED = ("failed to connect to all addresses", "DNS resolution failed", "Name resolution failure")


class Transport:
    """Blocking. Safe to use from several threads."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        options = channel_options(endpoint)
        if endpoint.tls:
            credentials = grpc.ssl_channel_credentials(endpoint.root_certificates)
            self._channel = grpc.secure_channel(endpoint.target, credentials, options)
        else:
            self._channel = grpc.insecure_channel(endpoint.target, options)

    def run(self, flow: Flow[T]) -> T:
        """Drives a flow to its end."""
        try:
            action = next(flow)
            while True:
                try:
                    answer = self.perform(action)
                except (Exception, KeyboardInterrupt) as error:
                    action = flow.throw(error)
                else:
                    action = flow.send(answer)
        except StopIteration as stop:
            result: T = stop.value
            return result

    def perform(self, action: Action) -> Any:
        """One action; a failed call raises a typed error."""
        if isinstance(action, Sleep):
            time.sleep(action.seconds)
            return None
        try:
            answer = self._send(action)
        except grpc.RpcError as failure:
            raise _typed(action, failure, self._endpoint) from failure
        _raise_own_failure(action)
        return answer

    def _send(self, action: Call | Upload) -> Any:
        method = action.method
        if isinstance(action, Upload):
            upload = self._channel.stream_unary(method.path, method.serialise, method.deserialise)
            return upload(iter(action.messages), timeout=action.timeout_s, metadata=self._endpoint.metadata)
        call = self._channel.unary_unary(method.path, method.serialise, method.deserialise)
        return call(action.request, timeout=action.timeout_s, metadata=self._endpoint.metadata)

    def close(self) -> None:
        self._channel.close()


class AsyncTransport:
    """For asyncio. Bound to the loop it was made in."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        options = channel_options(endpoint)
        if endpoint.tls:
            credentials = grpc.ssl_channel_credentials(endpoint.root_certificates)
            self._channel = grpc.aio.secure_channel(endpoint.target, credentials, options)
        else:
            self._channel = grpc.aio.insecure_channel(endpoint.target, options)

    async def run(self, flow: Flow[T]) -> T:
        """Drives a flow to its end."""
        try:
            action = next(flow)
            while True:
                try:
                    answer = await self.perform(action)
                except (Exception, asyncio.CancelledError) as error:
                    action = flow.throw(error)
                else:
                    action = flow.send(answer)
        except StopIteration as stop:
            result: T = stop.value
            return result

    async def perform(self, action: Action) -> Any:
        """One action; a failed call raises a typed error."""
        if isinstance(action, Sleep):
            await asyncio.sleep(action.seconds)
            return None
        try:
            answer = await self._send(action)
        except grpc.RpcError as failure:
            raise _typed(action, failure, self._endpoint) from failure
        _raise_own_failure(action)
        return answer

    async def _send(self, action: Call | Upload) -> Any:
        method = action.method
        if isinstance(action, Upload):
            upload = self._channel.stream_unary(method.path, method.serialise, method.deserialise)
            messages = _in_thread(iter(action.messages))
            return await upload(messages, timeout=action.timeout_s, metadata=self._endpoint.metadata)
        call = self._channel.unary_unary(method.path, method.serialise, method.deserialise)
        return await call(action.request, timeout=action.timeout_s, metadata=self._endpoint.metadata)

    async def close(self) -> None:
        await self._channel.close()


def channel_options(endpoint: Endpoint) -> list[tuple[str, Any]]:
    """Sizes are the server's to limit; reconnecting starts fast; loopback never goes through a proxy."""
    options: list[tuple[str, Any]] = [
        ("grpc.max_send_message_length", -1),
        ("grpc.max_receive_message_length", -1),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 2000),
    ]
    if endpoint.loopback:
        options.append(("grpc.enable_http_proxy", 0))
    if endpoint.server_name is not None:
        options.append(("grpc.ssl_target_name_override", endpoint.server_name))
    return options


async def _in_thread(messages: Iterator[Any]) -> AsyncIterator[Any]:
    """Sealing and reading stay off the event loop."""
    end = object()
    while (message := await asyncio.to_thread(next, messages, end)) is not end:
        yield message


def _raise_own_failure(action: Call | Upload) -> None:
    # The stream stopped on this side: the server's answer to the half of it does not matter.
    if isinstance(action, Upload) and action.messages.failure is not None:
        raise action.messages.failure


def _typed(action: Call | Upload, failure: grpc.RpcError, endpoint: Endpoint) -> Exception:
    if isinstance(action, Upload) and action.messages.failure is not None:
        return action.messages.failure
    error = from_rpc_error(failure)
    if isinstance(action, Upload) and broke_while_sending(failure):
        # It goes on where the server stopped; a refusal behind it is heard then.
        error = Unavailable(error.message, reason=Reason.UNREACHABLE)
    if isinstance(error, Unavailable) and error.reason is Reason.UNREACHABLE:
        return _unreachable(error, endpoint)
    if isinstance(error, InvalidInput) and error.reason is Reason.MESSAGE_TOO_LARGE and not error.fields:
        message = f"the message is over the server's size limit ({error.message}); send fewer rows per request"
        return InvalidInput(message, reason=Reason.MESSAGE_TOO_LARGE)
    return error


def _unreachable(error: Unavailable, endpoint: Endpoint) -> Unavailable:
    never_connected = error.message.startswith(_NEVER_CONNECTED)
    what = "nobody answers at" if never_connected else "the connection broke to"
    how = "TLS" if endpoint.tls else "plaintext"
    return Unavailable(
        f"{what} {endpoint.target} ({how}); check the address, that the server runs, and that both sides use TLS "
        "or neither does",
        reason=Reason.UNREACHABLE,
        fields={
            **error.fields,
            EXECUTED_FIELD: "no" if never_connected else "unknown",
            "address": endpoint.target,
            "detail": error.message,
        },
        retry_after_s=error.retry_after_s,
    )
