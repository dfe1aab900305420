"""The floor: a grpc.aio server on uvloop that answers every unary call with the bytes it got, and nothing more.

Run: python benchmarks/echo_server.py [--listen 127.0.0.1:0] [--front aio|core]; prints `ready {"address": ...}` and
serves until SIGTERM. `core`: the same handler on the server that the router's public port has.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
from typing import Any

import grpc
import uvloop

OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.so_reuseport", 0),
)


class Echo(grpc.GenericRpcHandler):
    """One handler for every method, without serialisers: bytes in, the same bytes out."""

    def __init__(self) -> None:
        self._handler: grpc.RpcMethodHandler[Any, Any] = grpc.unary_unary_rpc_method_handler(self._answer)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any]:
        return self._handler

    async def _answer(self, request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        return request


def _server(front: str) -> Any:
    """The floor knows nothing of ours, not even as a module in its memory."""
    if front == "aio":
        return grpc.aio.server(options=OPTIONS)
    from router.front.server import FrontServer

    return FrontServer(OPTIONS)


async def serve(listen: str, front: str) -> None:
    """Serves until SIGTERM or SIGINT."""
    server = _server(front)
    server.add_generic_rpc_handlers((Echo(),))
    port = server.add_insecure_port(listen)
    await server.start()
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    address = f"{listen.rpartition(':')[0]}:{port}"
    print("ready", json.dumps({"address": address, "pid": os.getpid()}), flush=True)
    await stopping.wait()
    await server.stop(1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--listen", default="127.0.0.1:0")
    parser.add_argument("--front", choices=("aio", "core"), default="aio")
    options = parser.parse_args()
    uvloop.run(serve(options.listen, options.front))


if __name__ == "__main__":
    main()
