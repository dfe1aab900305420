"""Which agents are here, what they report, and the replicas that the request's road may use."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

import structlog

from partywall.clock import Clock
from partywall.domain.fleet import Device, NodeState, ReplicaStatus
from partywall.domain.placements import Placement
from partywall.v1 import agent_link_pb2 as link
from partywall.v1 import fleet_pb2
from partywall.wire import convert
from router.gateway.link import AgentSession
from router.gateway.replicas import Replica

log = structlog.get_logger(__name__)


class Names(Protocol):
    """Turns ids into the names people read."""

    def tenant_name(self, tenant_id: str) -> str: ...

    def model_name(self, model_id: str) -> str: ...


class Membership:
    """Live sessions by node, and one `Replica` per placement.

    `on_change` is called after anything that routes or plans depend on: a session came or went, a replica's state
    changed, the set of placements changed. Nothing here blocks.
    """

    def __init__(self, clock: Clock, names: Names, dead_after_s: float, *, shared: bool = False) -> None:
        """`shared`: other processes of this router send requests to the same agents."""
        self._clock = clock
        self._names = names
        self._dead_after_s = dead_after_s
        self._shared = shared
        self._sessions: dict[str, AgentSession] = {}
        self._last_seen_s: dict[str, float] = {}
        self._began_s = clock.monotonic()
        self._replicas: dict[str, Replica] = {}
        self._by_handle: dict[int, Replica] = {}
        self._handles = itertools.count(1)
        self._listeners: list[Callable[[], None]] = []
        self.epoch = 0
        self.generation = 0

    def on_change(self, listener: Callable[[], None]) -> None:
        self._listeners.append(listener)

    def session(self, node: str) -> AgentSession | None:
        return self._sessions.get(node)

    def sessions(self) -> Iterable[AgentSession]:
        return self._sessions.values()

    def devices(self, node: str) -> tuple[Device, ...]:
        """Devices of a live node; empty when it is away."""
        session = self._sessions.get(node)
        return tuple(convert.device_from_proto(d) for d in session.hello.devices) if session else ()

    def away_s(self, node: str) -> float:
        """Seconds since a node was last heard, and at most since this process began; 0.0 while it is here.

        A router that has just started has heard nobody: that is no reason to take the nodes for lost.
        """
        if node in self._sessions:
            return 0.0
        return self._clock.monotonic() - self._last_seen_s.get(node, self._began_s)

    @property
    def replicas_by_id(self) -> Mapping[str, Replica]:
        return self._replicas

    def replica_runtimes(self) -> Iterable[Replica]:
        return self._replicas.values()

    def attach(self, session: AgentSession) -> AgentSession | None:
        """Takes a new session in; answers the one it replaces, which the caller closes."""
        old = self._sessions.get(session.node)
        self._sessions[session.node] = session
        self._last_seen_s[session.node] = self._clock.monotonic()
        for replica in self._replicas.values():
            if replica.placement.node == session.node:
                replica.session, replica.status, replica.foreign_rows = session, None, 0
        self._changed()
        return old

    def detach(self, session: AgentSession) -> None:
        """Forgets a session that ended, unless a newer one took its place. Fails what waits on it."""
        session.close()
        if self._sessions.get(session.node) is not session:
            return
        del self._sessions[session.node]
        self._last_seen_s[session.node] = self._clock.monotonic()
        for replica in self._replicas.values():
            if replica.placement.node == session.node:
                replica.session, replica.status, replica.foreign_rows = None, None, 0
        self._changed()

    def observe(self, session: AgentSession, frame: link.AgentFrame) -> None:
        """Takes what an agent says of its replicas and their load."""
        session.last_seen_s = self._clock.monotonic()
        for load in frame.loads:
            loaded = self._by_handle.get(load.handle)
            if loaded is not None:
                loaded.agent_queued_rows = load.queued_rows
                loaded.agent_quiet_s, loaded.agent_said_s = load.quiet_ms / 1e3, session.last_seen_s
                if self._shared:
                    there = load.queued_rows + load.running_rows
                    loaded.foreign_rows = max(0, there - loaded.outstanding_rows)
        changed = False
        if frame.devices:
            del session.hello.devices[:]
            session.hello.devices.extend(frame.devices)
            changed = True
        for message in frame.observed:
            _remember(session, message)
            replica = self._replicas.get(message.placement_id)
            if replica is None or replica.session is not session:
                continue
            status = convert.observed_from_proto(message)
            if status != replica.status:
                replica.status = status
                _take_signature(replica, status)
                changed = True
        if changed:
            self._changed()

    def set_placements(self, placements: Iterable[Placement]) -> None:
        """Makes the set of replicas equal to the placements; states of those that stay are kept."""
        wanted = {p.id: p for p in placements}
        if wanted == {name: r.placement for name, r in self._replicas.items()}:
            return
        for gone in self._replicas.keys() - wanted.keys():
            replica = self._replicas.pop(gone)
            self._by_handle.pop(replica.handle, None)
        for placement in wanted.values():
            known = self._replicas.get(placement.id)
            if known is not None:
                known.placement = placement
                continue
            session = self._sessions.get(placement.node)
            fresh = Replica(placement, next(self._handles), session)
            if session is not None and (early := session.observed.get(placement.id)) is not None:
                fresh.status = convert.observed_from_proto(early)
                _take_signature(fresh, fresh.status)
            self._replicas[placement.id] = fresh
            self._by_handle[fresh.handle] = fresh
        workers: dict[str, list[Replica]] = {}
        for replica in self._replicas.values():
            workers.setdefault(replica.placement.worker_id, []).append(replica)
        for replica in self._replicas.values():
            together = workers[replica.placement.worker_id]
            replica.peers = tuple(r for r in together if r is not replica)
            replica.turn = together[0].turn
        self._changed()

    async def watch(self, poll_s: float = 0.25) -> None:
        """Ends sessions that have been silent too long; runs until cancelled."""
        while True:
            await asyncio.sleep(poll_s)
            now_s = self._clock.monotonic()
            for session in list(self._sessions.values()):
                session.expire()
                if now_s - session.last_seen_s > self._dead_after_s:
                    log.warning("agent silent, taken as dead", node=session.node)
                    self.detach(session)

    # What the operator's fleet view shows.
    def nodes(self) -> list[fleet_pb2.Node]:
        return [
            fleet_pb2.Node(
                name=s.node,
                state=fleet_pb2.NodeState.Value(f"NODE_STATE_{NodeState.ONLINE.name}"),
                incarnation=s.hello.incarnation,
                devices=s.hello.devices,
                version=s.hello.version,
            )
            for s in self._sessions.values()
        ]

    def replicas(self) -> list[fleet_pb2.Replica]:
        return [self._describe(r) for r in self._replicas.values()]

    def _describe(self, replica: Replica) -> fleet_pb2.Replica:
        placement, status = replica.placement, replica.status
        state = status.state.name if status else "STARTING"
        message = fleet_pb2.Replica(
            placement_id=placement.id,
            tenant=self._names.tenant_name(placement.tenant_id),
            model=self._names.model_name(placement.model_id),
            version=placement.version,
            node=placement.node,
            worker_id=placement.worker_id,
            partition=convert.partition_to_proto(placement.partition),
            state=fleet_pb2.ReplicaState.Value(f"REPLICA_STATE_{state}"),
            reason=(status.reason if status else "") or ("" if replica.session else "the node is away"),
            queued=replica.agent_queued_rows,
            in_flight=replica.in_flight,
        )
        if status is not None:
            message.pid = status.pid
            message.memory_bytes = status.memory_bytes
            message.load_seconds = status.load_seconds
            message.wake_seconds, message.wake_bytes = status.wake_seconds, status.wake_bytes
            message.wall = status.wall
            message.restarts = status.restarts
        return message

    def _changed(self) -> None:
        for listener in self._listeners:
            listener()


def _remember(session: AgentSession, message: link.Observed) -> None:
    """Keeps what an agent said: a process that follows hears of a replica before it reads of its placement."""
    # One that stopped and still holds memory is parked.
    if message.state == fleet_pb2.REPLICA_STATE_STOPPED and not message.memory_bytes:
        session.observed.pop(message.placement_id, None)
    else:
        session.observed[message.placement_id] = message


def _take_signature(replica: Replica, status: ReplicaStatus) -> None:
    if status.signature is not None:
        replica.max_batch = max(1, status.signature.max_batch)
