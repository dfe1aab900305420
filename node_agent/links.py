"""Links to all processes of a router: the leading one is dialled, and names the others."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Protocol

import structlog

from node_agent.link import RouterLink
from partywall.domain.fleet import ReplicaStatus
from partywall.v1 import agent_link_pb2 as link
from partywall.v1 import fleet_pb2

log = structlog.get_logger(__name__)

_EVERYWHERE = ("", "0.0.0.0", "::")  # noqa: S104 - compared with, not bound to


class MakeLink(Protocol):
    """Makes the link to one address; it is run, and given up, here."""

    def __call__(
        self,
        address: str,
        request_ids: Iterator[int],
        on_welcome: Callable[[Sequence[str]], None],
        shared: Callable[[], bool],
    ) -> RouterLink: ...


class RouterLinks:
    """One link per process. `run` lives until it is cancelled.

    The first link is to the address the operator gave. What its router says of its processes is obeyed at each
    welcome: links to new ones are dialled, links to those that are gone are given up. While the leading process is
    away, the others' links go on.
    """

    def __init__(self, address: str, make: MakeLink) -> None:
        self._address = address
        self._make = make
        self._request_ids = itertools.count(1)
        self._first = make(address, self._request_ids, self._on_links, self._shared)
        self._others: dict[str, tuple[RouterLink, asyncio.Task[None]]] = {}

    async def run(self) -> None:
        try:
            await self._first.run()
        finally:
            self._keep(())

    def report(self, status: ReplicaStatus) -> None:
        """Tells all processes of a replica's new state."""
        for one in self._links():
            one.report(status)

    def report_devices(self, devices: Sequence[fleet_pb2.Device]) -> None:
        """Tells all processes that a device changed."""
        for one in self._links():
            one.report_devices(devices)

    def event(self, event: link.AgentEvent) -> None:
        """Tells the leading process what happened here."""
        self._first.event(event)

    def report_profile(self, progress: link.ProfileProgress) -> None:
        """Tells the leading process of a profile job: it alone gives such."""
        self._first.report_profile(progress)

    def fetch(self, artifact_id: str, file: str, offset: int) -> AsyncIterator[bytes]:
        """Ciphertext of a file, from the first process that is there; see `RouterLink.fetch`."""
        chosen = next((one for one in self._links() if one.connected.is_set()), self._first)
        return chosen.fetch(artifact_id, file, offset)

    def _links(self) -> list[RouterLink]:
        return [self._first, *(one for one, _ in self._others.values())]

    def _shared(self) -> bool:
        return bool(self._others)

    def _on_links(self, links: Sequence[str]) -> None:
        wanted = [reachable(text, self._address) for text in links[1:]]
        self._keep(wanted)
        for address in wanted:
            if address not in self._others:
                log.info("linking to another process of the router", address=address)
                one = self._make(address, self._request_ids, lambda links: None, self._shared)
                self._others[address] = (one, asyncio.create_task(one.run()))

    def _keep(self, wanted: Sequence[str]) -> None:
        for address in [a for a in self._others if a not in wanted]:
            _, task = self._others.pop(address)
            task.cancel()


def reachable(listens: str, dialled: str) -> str:
    """Where a process that listens on `listens` is dialled: on the host where its sibling was, if it listens
    everywhere.

    >>> reachable("0.0.0.0:8005", "10.0.0.7:8004")
    '10.0.0.7:8005'
    """
    host, _, port = listens.rpartition(":")
    return f"{dialled.rpartition(':')[0]}:{port}" if host.strip("[]") in _EVERYWHERE else listens
