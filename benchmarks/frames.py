"""A frame of the agent link there and back: on a gRPC stream and on a connection of its own, both with mutual TLS.

Run: python benchmarks/frames.py [--rounds 7]; writes docs/results/frames.json and frames.md. Half a minute.
CPU time is that of the whole process, which holds both ends, per frame there and back; ratios round by round.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import uvloop

from benchmarks.dataplane.processes import machine
from partywall.wire.pipe import FramePipe
from partywall.wire.tls import client_context, server_context
from router.control.pki import ROUTER_NAME, Authority

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"
SIZES = {"2 KB": 2 << 10, "64 KB": 64 << 10, "256 KB": 256 << 10, "2 MB": 2 << 20}
ROUND_S = 0.4
METHOD = "/bench/Frames"
BOUND_S = 30.0

Turn = Callable[[bytes], Awaitable[object]]
"""One frame there and back."""


@asynccontextmanager
async def stream(authority: Authority) -> AsyncIterator[Turn]:
    """gRPC's way, as the link did it."""
    now = datetime.now(UTC)
    router, agent = authority.router((), now), authority.agent("n", now)

    async def echo(requests: Any, context: Any) -> None:
        while (body := await context.read()) is not grpc.aio.EOF:
            await context.write(body)

    unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    server = grpc.aio.server(options=unlimited)
    handler: grpc.RpcMethodHandler[Any, Any] = grpc.stream_stream_rpc_method_handler(echo)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("bench", {"Frames": handler})])
    pair = (router.key_pem, router.certificate_pem)
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair], authority.ca_pem, True))
    await server.start()
    credentials = grpc.ssl_channel_credentials(authority.ca_pem, agent.key_pem, agent.certificate_pem)
    options = [*unlimited, ("grpc.ssl_target_name_override", ROUTER_NAME)]
    async with grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials, options) as channel:
        call: Any = channel.stream_stream(METHOD)()

        async def turn(body: bytes) -> object:
            await call.write(body)
            return await call.read()

        yield turn
        call.cancel()
    await server.stop(0)


@asynccontextmanager
async def connection(authority: Authority) -> AsyncIterator[Turn]:
    """The way of its own."""
    now, loop = datetime.now(UTC), asyncio.get_running_loop()
    router, agent = authority.router((), now), authority.agent("n", now)
    tasks: list[asyncio.Task[None]] = []

    async def echo(pipe: FramePipe) -> None:
        while (body := await pipe.read()) is not None:
            await pipe.write(bytes(body))

    server = await loop.create_server(
        lambda: FramePipe(lambda pipe: tasks.append(loop.create_task(echo(pipe)))),
        "127.0.0.1",
        0,
        ssl=server_context(router.certificate_pem, router.key_pem, authority.ca_pem),
    )
    _, pipe = await loop.create_connection(
        FramePipe,
        "127.0.0.1",
        server.sockets[0].getsockname()[1],
        ssl=client_context(agent.certificate_pem, agent.key_pem, authority.ca_pem),
        server_hostname=ROUTER_NAME,
    )

    async def turn(body: bytes) -> object:
        await pipe.write(body)
        return await pipe.read()

    yield turn
    pipe.close()
    server.close()
    for task in tasks:
        task.cancel()


async def cost(turn: Turn, body: bytes) -> tuple[float, float]:
    """(CPU, wall) microseconds of one frame there and back."""
    for _ in range(5):
        assert await turn(body) == body
    count, started_s, started_ns = 0, time.monotonic(), time.process_time_ns()
    while time.monotonic() - started_s < ROUND_S:
        await turn(body)
        count += 1
    return (time.process_time_ns() - started_ns) / count / 1e3, (time.monotonic() - started_s) / count * 1e6


async def measure(rounds: int) -> list[dict[str, Any]]:
    authority, rows = Authority.create(datetime.now(UTC)), []
    async with asyncio.timeout(BOUND_S + rounds * len(SIZES) * 2 * 4 * ROUND_S):
        async with stream(authority) as by_stream, connection(authority) as by_own:
            for name, size in SIZES.items():
                body = bytes(size)
                pairs = [(await cost(by_stream, body), await cost(by_own, body)) for _ in range(rounds)]
                rows.append(
                    {
                        "frame": name,
                        "stream_cpu_us": round(statistics.median(s[0] for s, _ in pairs), 1),
                        "own_cpu_us": round(statistics.median(o[0] for _, o in pairs), 1),
                        "stream_us": round(statistics.median(s[1] for s, _ in pairs), 1),
                        "own_us": round(statistics.median(o[1] for _, o in pairs), 1),
                        "cpu_ratio": round(statistics.median(o[0] / s[0] for s, o in pairs), 3),
                    }
                )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    rows = uvloop.run(measure(rounds))
    where = machine()
    lines = [
        "# Frames of the agent link, there and back",
        "",
        f"Made by `python benchmarks/frames.py` on {datetime.now(UTC):%Y-%m-%d}. Machine: {where.cpu},",
        f"{where.cores} cores, Linux {where.kernel}, Python {where.python}, grpcio {where.grpcio}.",
        f"Medians over {rounds} interleaved rounds; CPU of both ends together.",
        "",
        "| frame | gRPC stream: CPU us | own connection: CPU us | ratio | gRPC stream: us | own connection: us |",
        "| --- | --- | --- | --- | --- | --- |",
        *(
            f"| {r['frame']} | {r['stream_cpu_us']:,} | {r['own_cpu_us']:,} | {r['cpu_ratio']} | {r['stream_us']:,} "
            f"| {r['own_us']:,} |"
            for r in rows
        ),
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    (RESULTS / "frames.json").write_text(json.dumps(rows, indent=1) + "\n")
    (RESULTS / "frames.md").write_text(text)


if __name__ == "__main__":
    main()
