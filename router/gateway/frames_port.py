"""The port where agents open the connection that carries their link's frames.

An agent first connects by gRPC, and is named this port and a secret that counts once. It comes here with the secret and
its certificate; the connection then belongs to that link. Where it cannot come, frames stay on the gRPC stream.
"""

from __future__ import annotations

import asyncio
import secrets
import ssl
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from partywall.errors import NotReady, PartywallError
from partywall.wire.pipe import FramePipe

log = structlog.get_logger(__name__)

SECRET_BYTES = 32
GREETING_S = 5.0
"""How long a new connection may take to say its secret."""
MOST_STRANGERS = 256
"""Connections that have not said it yet."""

Identify = Callable[[bytes | None], str]
"""The node that a peer's certificate (PEM) proves; raises for anything but an agent."""


@dataclass(frozen=True, slots=True)
class Expected:
    """A connection that is to come."""

    node: str
    secret: bytes
    pipe: asyncio.Future[FramePipe]


class FramesPort:
    """Listens, and gives each connection to the link that waits for it."""

    def __init__(self, identify: Identify) -> None:
        self._identify = identify
        self._expected: dict[bytes, Expected] = {}
        self._strangers: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.address = ""
        """Where it listens, host:port; empty before `start`."""

    async def start(self, host: str, port: int, context: ssl.SSLContext | None) -> None:
        """Binds; port 0 takes a free one. `context` None is for tests on loopback.

        Raises:
            NotReady: The port is taken.
        """
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(
                lambda: FramePipe(self._on_open, first_body_bytes=SECRET_BYTES),
                host,
                port,
                ssl=context,
                ssl_handshake_timeout=GREETING_S if context is not None else None,
            )
        except OSError as error:
            raise NotReady(
                f"--frames-listen: cannot listen on {host}:{port}: {error.strerror}; choose another address"
            ) from error
        bound = self._server.sockets[0].getsockname()[1]
        self.address = f"[{host}]:{bound}" if ":" in host else f"{host}:{bound}"

    def expect(self, node: str) -> Expected:
        """A secret for one connection of a node; `forget` it in the end."""
        wanted = Expected(node, secrets.token_bytes(SECRET_BYTES), asyncio.get_running_loop().create_future())
        self._expected[wanted.secret] = wanted
        return wanted

    def forget(self, wanted: Expected) -> None:
        """Nobody waits for it any more; closes its connection. Idempotent."""
        self._expected.pop(wanted.secret, None)
        if wanted.pipe.done() and not wanted.pipe.cancelled():
            wanted.pipe.result().close()
        else:
            wanted.pipe.cancel()

    def close(self) -> None:
        """Listens no more. Connections that belong to links stay with them."""
        if self._server is not None:
            self._server.close()
        for task in self._strangers:
            task.cancel()

    def _on_open(self, pipe: FramePipe) -> None:
        if len(self._strangers) >= MOST_STRANGERS:
            pipe.close()
            return
        task = asyncio.get_running_loop().create_task(self._greet(pipe))
        self._strangers.add(task)
        task.add_done_callback(self._strangers.discard)

    async def _greet(self, pipe: FramePipe) -> None:
        wanted = None
        try:
            node = self._identify(_certificate(pipe))
            async with asyncio.timeout(GREETING_S):
                secret = await pipe.read()
            # 256 random bits that count once: nothing can be learned from how long the look-up takes.
            wanted = self._expected.pop(bytes(secret), None) if secret is not None else None
            if wanted is None or wanted.node != node or wanted.pipe.done():
                log.warning("a connection for frames that nobody waits for", node=node)
                wanted = None
        except (PartywallError, TimeoutError) as error:
            log.warning("a connection for frames was refused", reason=str(error) or "it said nothing")
        finally:
            if wanted is None:
                pipe.close()
            else:
                wanted.pipe.set_result(pipe)


def _certificate(pipe: FramePipe) -> bytes | None:
    tls: ssl.SSLObject | None = pipe.transport.get_extra_info("ssl_object")
    shown = tls.getpeercert(binary_form=True) if tls is not None else None
    return ssl.DER_cert_to_PEM_cert(shown).encode() if shown is not None else None
