"""Ports held for several processes: one number for all of them, and nobody else's while they restart."""

from __future__ import annotations

import socket

from router.servers import Address, cannot_listen


class Reserved:
    """A bound socket that never listens: the kernel gives it no connection, and the port stays ours."""

    def __init__(self, wanted: Address) -> None:
        """Port 0 takes a free one.

        Raises:
            NotReady: Somebody else listens there, or the address is not this machine's.
        """
        family, place = _resolve(wanted)
        # SO_REUSEPORT alone would let two routers of one user share a port without a word.
        port = _bind(family, place, wanted, shared=False, keep=False).port
        self._kept = _bind(family, (place[0], port), wanted, shared=True, keep=True)
        self.address = Address(wanted.host, port)

    def close(self) -> None:
        """Gives the port back."""
        self._kept.close()


class _Bound:
    def __init__(self, sock: socket.socket, *, keep: bool) -> None:
        self.port: int = sock.getsockname()[1]
        self._socket = sock
        if not keep:
            sock.close()

    def close(self) -> None:
        self._socket.close()


def _bind(family: int, place: tuple[str, int], wanted: Address, *, shared: bool, keep: bool) -> _Bound:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(place)
    except OSError as error:
        sock.close()
        raise cannot_listen(wanted, str(error.strerror)) from error
    return _Bound(sock, keep=keep)


def _resolve(wanted: Address) -> tuple[int, tuple[str, int]]:
    try:
        found = socket.getaddrinfo(wanted.host, wanted.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise cannot_listen(wanted, str(error.strerror)) from error
    family, _, _, _, place = found[0]
    return family, (str(place[0]), int(place[1]))
