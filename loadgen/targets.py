"""Where requests go: channels to a router, and the callers over them."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio

from partywall.client.endpoint import Endpoint
from partywall.client.transport import channel_options
from partywall.domain.models import TensorSpec
from partywall.errors import InvalidInput, Reason, Unavailable
from partywall.wire.inference import message, method_codec
from partywall.wire.status import from_rpc_error

_INFER_PATH = method_codec("ModelInfer")[0]
# Without a pool of its own, every further channel to one address would share the first one's connection.
_OPTIONS: tuple[tuple[str, int], ...] = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0))


class Target:
    """One tenant's channels to one router; an async context manager.

    Args:
        endpoint: The router's public address with the tenant's key (`partywall.client.endpoint.open_endpoint`).
        channels: Connections to spread requests over, in turn.
    """

    def __init__(self, endpoint: Endpoint, channels: int = 1) -> None:
        if channels < 1:
            raise InvalidInput(f"channels must be at least 1, got {channels}", fields={"field": "channels"})
        self._endpoint = endpoint
        self._metadata = endpoint.metadata
        self._count = channels
        self._channels: list[grpc.aio.Channel] = []
        self._turn: itertools.cycle[Any] = itertools.cycle(())

    async def __aenter__(self) -> Self:
        self._channels = [_channel(self._endpoint) for _ in range(self._count)]
        self._turn = itertools.cycle([c.unary_unary(_INFER_PATH) for c in self._channels])
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for channel in self._channels:
            await channel.close()

    async def connect(self, timeout_s: float = 5.0) -> None:
        """Waits until every channel is connected.

        Raises:
            Unavailable: Nobody answers at the address.
        """
        for channel in self._channels:
            await _ready(channel, self._endpoint.target, timeout_s)

    async def call(self, payload: bytes, timeout_s: float) -> bytes:
        """Sends one serialised `ModelInferRequest`; returns the serialised response.

        Raises:
            PartywallError: The typed error behind the status.
        """
        try:
            reply: bytes = await next(self._turn)(payload, metadata=self._metadata, timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None
        return reply

    async def inputs(self, model: str, version: str = "", timeout_s: float = 10.0) -> Sequence[TensorSpec]:
        """What the model takes, as the server tells it.

        Raises:
            PartywallError: The typed error behind the status.
        """
        path, serialise, parse, _ = method_codec("ModelMetadata")
        rpc = self._channels[0].unary_unary(path, request_serializer=serialise, response_deserializer=parse)
        try:
            reply = await rpc(
                message("ModelMetadataRequest")(name=model, version=version), metadata=self._metadata, timeout=timeout_s
            )
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None
        return [TensorSpec(t.name, t.datatype, tuple(t.shape)) for t in reply.inputs]


def _channel(endpoint: Endpoint) -> grpc.aio.Channel:
    options = [*channel_options(endpoint), *_OPTIONS]
    if not endpoint.tls:
        return grpc.aio.insecure_channel(endpoint.target, options)
    return grpc.aio.secure_channel(endpoint.target, grpc.ssl_channel_credentials(endpoint.root_certificates), options)


async def _ready(channel: grpc.aio.Channel, address: str, timeout_s: float) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            await channel.channel_ready()
    except TimeoutError:
        raise Unavailable(
            f"nobody answers at {address} within {timeout_s:g} s; check the address and that the router is up",
            reason=Reason.UNREACHABLE,
            fields={"address": address},
        ) from None
