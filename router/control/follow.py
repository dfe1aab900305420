"""What a router process does that does not lead: it follows the store, and tells agents how it will call replicas."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import structlog

from partywall.errors import NotReady, PartywallError, Reason
from partywall.v1 import agent_link_pb2 as link
from router.control.catalog import Catalog
from router.control.membership import Membership
from router.gateway.link import AgentSession

log = structlog.get_logger(__name__)

POLL_S = 0.25
"""How often the store is asked what other processes wrote."""


async def watch(catalog: Catalog, poll_s: float = POLL_S) -> None:
    """Takes over what other processes commit; runs until cancelled. While the store is away, the last state serves."""
    away = False
    while True:
        await asyncio.sleep(poll_s)
        try:
            await catalog.refresh()
            away = False
        except PartywallError as error:
            if not away:
                log.warning("the store does not answer; serving the last known state", error=error.message)
            away = True


class Follower:
    """Keeps replicas equal to the placements in the store and sends each agent this process's handles for them.

    It commands nothing: what shall stand where is the leading process's word, with its epoch.
    """

    def __init__(self, catalog: Catalog, membership: Membership, *, period_s: float = 1.0) -> None:
        self._catalog = catalog
        self._membership = membership
        self._period_s = period_s
        self._kick = asyncio.Event()
        self._sent: dict[str, tuple[AgentSession, tuple[tuple[str, int], ...]]] = {}

    def kick(self) -> None:
        """Asks for a pass soon; cheap, may be called often."""
        self._kick.set()

    async def run(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._period_s):
                    await self._kick.wait()
            except TimeoutError:
                pass
            self._kick.clear()
            self.follow()

    def follow(self) -> None:
        """One pass."""
        self._membership.set_placements(self._catalog.placements())
        sessions = list(self._membership.sessions())
        for session in sessions:
            known, handles = self._sent.get(session.node), self._handles(session.node)
            if known is not None and known[0] is session and known[1] == handles:
                continue
            session.send_handles(
                link.Handles(entries=[link.Handle(placement_id=name, handle=handle) for name, handle in handles])
            )
            self._sent[session.node] = (session, handles)
        for node in self._sent.keys() - {session.node for session in sessions}:
            del self._sent[node]

    def _handles(self, node: str) -> tuple[tuple[str, int], ...]:
        replicas = self._membership.replica_runtimes()
        return tuple(sorted((r.placement.id, r.handle) for r in replicas if r.placement.node == node))


class NoAudit:
    """The audit log has one writer, the leading process; nothing that must be recorded may happen in another one."""

    def append(self, event: str, fields: Mapping[str, str]) -> str:
        raise NotReady(
            f"{event}: only the leading router process records changes; send the call again",
            reason=Reason.WRONG_STATE,
        )
