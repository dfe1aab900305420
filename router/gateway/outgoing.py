"""What the router sends to an agent, and the frames that carry it."""

from __future__ import annotations

import asyncio
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass

from partywall.v1 import agent_link_pb2 as link
from partywall.wire.tails import TAIL_ABOVE_BYTES
from router.gateway.replicas import Replica

MAX_FRAME_BYTES = 4 << 20
"""A frame stays below this unless a single request is larger: big frames would hold small ones up."""

Answer = tuple[link.InferReply, memoryview | None]
"""A reply, and its response where that came as a tail."""


@dataclass(slots=True, eq=False)
class Pending:
    """A call that has no answer yet; its message is made when its frame is. Equal to nothing but itself."""

    id: int
    future: asyncio.Future[Answer]
    replica: Replica
    rows: int
    timeout_us: int
    deadline_s: float
    request_id: str
    request: bytes


@dataclass(frozen=True, slots=True)
class Attest:
    """A wish to have every wall read again."""

    number: int


Outgoing = Pending | link.Desired | link.Handles | link.ProfileJob | Attest | int | str
"""A call, the agent's desired state, handles, a profile job, a wish to attest, the id of a call or job to cancel."""


def frames(items: Iterable[Outgoing], waiting: Container[int]) -> Iterator[tuple[link.RouterFrame, list[bytes]]]:
    """Frames of at most `MAX_FRAME_BYTES`, each with its tails, in the items' order.

    Args:
        waiting: The calls whose callers have not left.
    """
    frame, tails, size = link.RouterFrame(), list[bytes](), 0
    for item in items:
        if isinstance(item, Pending):
            if size and size + len(item.request) > MAX_FRAME_BYTES:
                yield frame, tails
                frame, tails, size = link.RouterFrame(), [], 0
            # A caller that left while the call waited here costs the agent nothing.
            if item.id in waiting:
                call = frame.calls.add(
                    id=item.id,
                    handle=item.replica.handle,
                    timeout_us=item.timeout_us,
                    rows=item.rows,
                    request_id=item.request_id,
                )
                if len(item.request) > TAIL_ABOVE_BYTES:
                    tails.append(item.request)
                    call.tail = len(tails)
                else:
                    call.request = item.request
                size += len(item.request)
        elif isinstance(item, int):
            frame.cancels.append(item)
        elif isinstance(item, link.ProfileJob):
            frame.profile_jobs.append(item)
        elif isinstance(item, str):
            frame.profile_cancels.append(item)
        elif isinstance(item, link.Handles):
            frame.handles.CopyFrom(item)
        elif isinstance(item, Attest):
            frame.attest = item.number
        else:
            frame.desired.CopyFrom(item)
    yield frame, tails
