"""One connection of an agent's link: what waits to be sent on it, and how a queued request finds its way back."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from node_agent.queueing import Queued
from node_agent.runner import Outcome
from partywall.v1 import agent_link_pb2 as link
from partywall.v1 import fleet_pb2
from partywall.wire.coalesce import Coalescer
from partywall.wire.convert import error_to_proto
from partywall.wire.tails import TAIL_ABOVE_BYTES


@dataclass(slots=True)
class Answer:
    """What became of a call; its message is made when its frame is."""

    call_id: int
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Devices:
    """The node's devices, after one of them changed."""

    messages: tuple[fleet_pb2.Device, ...]


Outgoing = Answer | link.Observed | link.AgentEvent | link.ProfileProgress | link.Attested | Devices | None
"""None is a heartbeat: loads and nothing else."""


@dataclass(slots=True)
class Connection:
    """State of one connection; it goes with the connection."""

    outgoing: Coalescer[Outgoing]
    placements: dict[int, str] = field(default_factory=dict)
    handles: dict[str, int] = field(default_factory=dict)
    calls: dict[int, tuple[int, str]] = field(default_factory=dict)
    generation: int = 0
    open: bool = True
    loads_at_s: float = 0.0
    heard: bool = False
    """Whether the router has sent a frame on it."""
    attesting: asyncio.Task[None] | None = None


@dataclass(slots=True)
class CallContext:
    """Where the reply of a queued request goes."""

    connection: Connection
    call_id: int


def reply(item: Queued, outcome: Outcome) -> None:
    """Answers one request on the connection it came by; nothing happens when that is gone."""
    context = item.context
    if not isinstance(context, CallContext):
        raise TypeError(f"not one of a link's requests: {item.context!r}")
    connection = context.connection
    if connection.calls.pop(context.call_id, None) is None or not connection.open:
        return
    connection.outgoing.add(Answer(context.call_id, outcome), 1.0 / max(1, outcome.batch_requests))


def add_reply(frame: link.AgentFrame, tails: list[bytes], call_id: int, outcome: Outcome) -> None:
    """Writes one answer into a frame; a large response goes beside it."""
    reply = frame.replies.add(
        id=call_id,
        queue_us=outcome.queue_us,
        service_us=outcome.service_us,
        batch_requests=outcome.batch_requests,
        batch_rows=outcome.batch_rows,
    )
    if len(outcome.response) > TAIL_ABOVE_BYTES:
        tails.append(outcome.response)
        reply.tail = len(tails)
    else:
        reply.response = outcome.response
    if outcome.error is not None:
        reply.error.CopyFrom(error_to_proto(outcome.error))
