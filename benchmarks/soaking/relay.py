"""A TCP relay that resets connections at random moments, as a failing network or a killed client does."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

_NO_LINGER = struct.pack("ii", 1, 0)
"""Closing then sends a reset instead of an orderly end."""


class Relay:
    """Passes bytes to `address` and back; each connection is reset after a random time around `mean_s`."""

    def __init__(self, address: str, mean_s: float, rng: random.Random) -> None:
        host, _, port = address.rpartition(":")
        self._host, self._port = host, int(port)
        self._mean_s = mean_s
        self._rng = rng
        self._tasks: set[asyncio.Task[None]] = set()
        self.resets = 0
        self.address = ""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Relay]:
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()
            for task in tuple(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        try:
            there, back = await asyncio.open_connection(self._host, self._port)
        except OSError:
            writer.close()
            return
        pumps = [asyncio.create_task(_pump(reader, back)), asyncio.create_task(_pump(there, writer))]
        try:
            done, _ = await asyncio.wait(
                pumps, timeout=self._rng.expovariate(1 / self._mean_s), return_when=asyncio.FIRST_COMPLETED
            )
            if not done:
                self.resets += 1
                for one in (writer, back):
                    sock: socket.socket = one.get_extra_info("socket")
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        except asyncio.CancelledError:
            # The run is over; the server's callback of asyncio would log this as a failure.
            pass
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            writer.transport.abort()
            back.transport.abort()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(64 << 10):
        writer.write(data)
        await writer.drain()
