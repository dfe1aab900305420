"""How what waits to be sent becomes frames for the router."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from node_agent.connection import Answer, Connection, Devices, Outgoing, add_reply
from node_agent.link_seams import Replicas
from partywall.clock import Clock
from partywall.v1 import agent_link_pb2 as link
from partywall.wire.frames import Frames
from partywall.wire.tails import join

MAX_FRAME_BYTES = 4 << 20
LOADS_EVERY_S = 0.02
"""How often replies carry loads, where several processes send requests here."""


class Outbound:
    """The writing half of a link. `shared`: see `RouterLink`."""

    def __init__(self, replicas: Replicas, clock: Clock, shared: Callable[[], bool]) -> None:
        self._replicas = replicas
        self._clock = clock
        self._shared = shared

    async def flush(self, frames: Frames[link.RouterFrame], connection: Connection, items: list[Outgoing]) -> None:
        """Writes all items, answers as they come; a frame that grows large is sent and another begun."""
        frame, tails, size = link.AgentFrame(generation=connection.generation), list[bytes](), 0
        for item in items:
            if isinstance(item, Answer):
                length = len(item.outcome.response)
                if size and size + length > MAX_FRAME_BYTES:
                    await frames.write(join(frame, tails) if tails else frame)
                    frame, tails, size = link.AgentFrame(generation=connection.generation), [], 0
                add_reply(frame, tails, item.call_id, item.outcome)
                size += length
            elif isinstance(item, link.Observed):
                frame.observed.append(item)
            elif isinstance(item, link.AgentEvent):
                frame.events.append(item)
            elif isinstance(item, link.ProfileProgress):
                frame.profiles.append(item)
            elif isinstance(item, link.Attested):
                frame.attested.append(item)
            elif isinstance(item, Devices):
                frame.devices.extend(item.messages)
            else:
                frame.heartbeat = True
        if frame.heartbeat or self._loads_due(connection):
            self._add_loads(frame, connection)
        await frames.write(join(frame, tails) if tails else frame)

    def _loads_due(self, connection: Connection) -> bool:
        return self._shared() and self._clock.monotonic() - connection.loads_at_s >= LOADS_EVERY_S

    def _add_loads(self, frame: link.AgentFrame, connection: Connection) -> None:
        connection.loads_at_s = self._clock.monotonic()
        for load in self._replicas.loads():
            handle = connection.handles.get(load.placement_id)
            if handle is not None:
                frame.loads.add(
                    handle=handle,
                    queued_rows=load.queued_rows,
                    running_rows=load.running_rows,
                    backlog_us=int(load.backlog_s * 1e6),
                    quiet_ms=int(load.quiet_s * 1e3),
                )


async def beat(connection: Connection, period_s: float) -> None:
    """A heartbeat every `period_s`, until it is cancelled."""
    while True:
        connection.outgoing.add(None)
        await asyncio.sleep(period_s)
