"""The floor: a grpc.aio server on uvloop that answers every unary call with the bytes it got, and nothing more.

Run: python benchmarks/echo_server.py [--listen 127.0.0.1:0]; prints `ready {"address": ...}` and serves until SIGTERM.
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


async def serve(listen: str) -> None:
    """Serves until SIGTERM or SIGINT."""
    server = grpc.aio.server(options=OPTIONS)
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
    uvloop.run(serve(parser.parse_args().listen))


if __name__ == "__main__":
    main()
