"""gRPC servers and their ports: options, addresses, credentials."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc

from partywall.errors import InvalidInput, NotReady, Reason
from router.control.rpc import translated
from router.front.server import FrontServer

METADATA_BYTES = 16 << 10
PENDING_CALLS, MOST_PENDING_CALLS = 8_000, 12_000
"""Calls that gRPC keeps until the loop takes them; between the two it cancels some, above all. Its own limits of 1,000
and 3,000 are reached when a busy loop stands still for a moment, and callers then read CANCELLED without a reason."""


@dataclass(frozen=True, slots=True)
class Address:
    """`host:port`; port 0 takes a free one."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str, field: str) -> Address:
        host, _, port = text.rpartition(":")
        host = host.strip("[]")
        if not host or not port.isdecimal() or int(port) > 65535:
            raise InvalidInput(f"{field} must read host:port, got {text!r}", fields={"field": field})
        return cls(host, int(port))

    @property
    def text(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def loopback(self) -> bool:
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def options(
    max_message_bytes: int, *, reuse_port: bool = False, age_s: float = 0.0, grace_s: float = 0.0
) -> list[tuple[str, Any]]:
    """For ports that strangers can reach: everything is bounded.

    The handlers refuse above `max_message_bytes` with a reason; gRPC itself cuts off, without one, at twice that.

    Args:
        reuse_port: Whether other processes listen on the same port.
        age_s: When a connection is asked to come anew, seconds, spread by gRPC by 10 %; 0: never.
        grace_s: How long calls that run then may go on.
    """
    limit = 2 * max_message_bytes
    aged = [
        ("grpc.max_connection_age_ms", round(age_s * 1e3)),
        ("grpc.max_connection_age_grace_ms", round(grace_s * 1e3)),
    ]
    return [
        *(aged if age_s else ()),
        ("grpc.max_receive_message_length", limit),
        ("grpc.max_send_message_length", limit),
        ("grpc.max_metadata_size", METADATA_BYTES),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.server.max_pending_requests", PENDING_CALLS),
        ("grpc.server.max_pending_requests_hard_limit", MOST_PENDING_CALLS),
        ("grpc.so_reuseport", int(reuse_port)),
    ]


def link_options(*, reuse_port: bool = False) -> list[tuple[str, Any]]:
    """For agents, which hold a certificate of ours. `reuse_port`: another process keeps the port reserved."""
    return [
        ("grpc.max_receive_message_length", -1),
        ("grpc.max_send_message_length", -1),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
        ("grpc.so_reuseport", int(reuse_port)),
    ]


def bind(
    server: FrontServer | grpc.aio.Server, address: Address, credentials: grpc.ServerCredentials | None
) -> Address:
    """Opens a port and answers the address it got.

    Raises:
        NotReady: The port is taken or the address is not this machine's.
    """
    try:
        if credentials is None:
            port = server.add_insecure_port(address.text)
        else:
            port = server.add_secure_port(address.text, credentials)
    except RuntimeError as error:
        raise cannot_listen(address, "it is taken, or not this machine's") from error
    if port == 0:
        raise cannot_listen(address, "no port was given to it")
    return Address(address.host, port)


def cannot_listen(address: Address, why: str) -> NotReady:
    """The error for a port that is taken, or an address that is not this machine's."""
    return NotReady(
        f"cannot listen on {address.text}: {why}; stop what listens there, or choose another address",
        reason=Reason.WRONG_STATE,
        fields={"address": address.text},
    )


class HandlerCollector:
    """Takes a generated servicer's handlers and gives them errors-as-status without an interceptor.

    An interceptor would be on the road of every call of the port; this costs only the services it is given.
    """

    def __init__(self) -> None:
        self.handlers: list[grpc.GenericRpcHandler] = []

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Part of the generated code's interface; the registered form below carries the same methods."""

    def add_registered_method_handlers(
        self, service: str, methods: Mapping[str, grpc.RpcMethodHandler[Any, Any]]
    ) -> None:
        wrapped = {name: translated(handler, f"/{service}/{name}") for name, handler in methods.items()}
        self.handlers.append(grpc.method_handlers_generic_handler(service, wrapped))


def collect(add: Callable[[Any, Any], None], servicer: object) -> list[grpc.GenericRpcHandler]:
    """Handlers of one servicer; `add` is the generated `add_XServicer_to_server`."""
    collector = HandlerCollector()
    add(servicer, collector)
    return collector.handlers
