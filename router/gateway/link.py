"""The router's end of the agent link: one stream per agent, many requests per message.

Every completion is guarded (`done()` first): a caller that left must never kill the reader.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterable, Sequence

from partywall.clock import Clock
from partywall.errors import DeadlineExceeded, Reason, Unavailable
from partywall.v1 import agent_link_pb2 as link
from partywall.v1 import fleet_pb2
from partywall.wire.coalesce import WINDOW_S, Coalescer, Crowd
from partywall.wire.convert import error_from_proto
from partywall.wire.tails import join
from router.gateway.outgoing import Answer, Attest, Outgoing, Pending, frames
from router.gateway.replicas import LargeReply, Replica, Reply

Write = Callable[[link.RouterFrame | bytes], Awaitable[None]]
"""Writes a frame, or a serialised one with tails."""


class AgentSession:
    """A live link to one agent; satisfies `router.gateway.replicas.Session`.

    `run_writer` must run as long as the link lives. `close` fails everything that still waits.
    """

    def __init__(self, hello: link.Hello, clock: Clock, window_s: float = WINDOW_S) -> None:
        self.node = hello.node
        self.hello = hello
        self.last_seen_s = clock.monotonic()
        self.observed: dict[str, link.Observed] = {}
        """The last word on each placement that stands there."""
        self.closed = False
        self.ended = asyncio.Event()
        self._clock = clock
        self._ids = itertools.count(1)
        self._pending: dict[int, Pending] = {}
        self._attesting: dict[int, asyncio.Future[list[fleet_pb2.ReplicaAttestation]]] = {}
        self._write: Write | None = None
        self._outgoing: Coalescer[Outgoing] = Coalescer(self._flush, clock, self._company, window_s=window_s)
        self._crowd = Crowd()

    @property
    def pending(self) -> int:
        """Requests without an answer yet."""
        return len(self._pending)

    async def call(self, replica: Replica, request: bytes, rows: int, timeout_s: float, request_id: str) -> Reply:
        """Sends one request and waits for its reply; a cancelled caller cancels it at the agent.

        Raises:
            PartywallError: What the agent answered, or Unavailable(AGENT_LOST) when the link broke.
        """
        if self.closed:
            raise _lost(self.node)
        call_id = next(self._ids)
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        timeout_us = max(1, int(timeout_s * 1e6))
        now_s = self._clock.monotonic()
        entry = Pending(call_id, future, replica, rows, timeout_us, now_s + timeout_s, request_id, request)
        self._pending[call_id] = entry
        self._crowd.add(len(self._pending), now_s)
        replica.begin(entry, rows, now_s, entry.deadline_s)
        self._outgoing.add(entry)
        try:
            reply, body = await future
        finally:
            if self._pending.pop(call_id, None) is not None:
                entry.replica.end(entry, entry.rows)
                self._outgoing.add(call_id)
        if reply.HasField("error"):
            raise error_from_proto(reply.error)
        if body is None:
            return reply
        return LargeReply(bytes(body), reply.queue_us, reply.service_us, reply.batch_requests, reply.batch_rows)

    def send_desired(self, desired: link.Desired) -> None:
        """Queues the agent's whole desired state."""
        self._outgoing.add(desired)

    def send_handles(self, handles: link.Handles) -> None:
        """Queues the handles that calls of this process will name."""
        self._outgoing.add(handles)

    async def attest(self, timeout_s: float) -> list[fleet_pb2.ReplicaAttestation]:
        """Has the agent read every wall again.

        Raises:
            TimeoutError: No answer in time.
        """
        number = next(self._ids)
        future: asyncio.Future[list[fleet_pb2.ReplicaAttestation]] = asyncio.get_running_loop().create_future()
        self._attesting[number] = future
        self._outgoing.add(Attest(number))
        try:
            async with asyncio.timeout(timeout_s):
                return await future
        finally:
            self._attesting.pop(number, None)

    def on_attested(self, answer: link.Attested) -> None:
        """Completes an `attest`."""
        future = self._attesting.get(answer.number)
        if future is not None and not future.done():
            future.set_result(list(answer.replicas))

    def send_profile_job(self, job: link.ProfileJob) -> None:
        """Queues a version to be measured; progress comes back in the agent's frames."""
        self._outgoing.add(job)

    def cancel_profile_job(self, job_id: str) -> None:
        """Queues the end of a job."""
        self._outgoing.add(job_id)

    def on_replies(self, replies: Iterable[link.InferReply], tails: Sequence[memoryview] = ()) -> None:
        """Completes the calls of one frame."""
        now_s = self._clock.monotonic()
        seen = None
        took: tuple[Replica, int, float] | None = None
        part, last = 0.0, None
        for reply in replies:
            waiting = self._pending.pop(reply.id, None)
            if waiting is None:
                continue
            waiting.replica.end(waiting, waiting.rows)
            if last is not None and last is not waiting.replica:
                last.answered(now_s)
            last = waiting.replica
            # The replies of one batch stand side by side and are one observation. Of its seconds only this process's
            # part counts here: other requests of the batch may have come through other routers.
            batch = (waiting.replica.handle, reply.service_us, reply.batch_rows)
            if batch != seen and reply.service_us:
                if took is not None:
                    took[0].window.add(took[1], took[2], min(part, 1.0))
                seen, part = batch, 0.0
                took = waiting.replica, max(1, reply.batch_rows), reply.service_us / 1e6
                took[0].service.observe(took[1], took[2], now_s)
                took[0].saw_batch(reply.batch_rows, reply.batch_requests)
            part += 1.0 / max(1, reply.batch_requests)
            if not waiting.future.done():
                waiting.future.set_result((reply, tails[reply.tail - 1] if reply.tail else None))
        if took is not None:
            took[0].window.add(took[1], took[2], min(part, 1.0))
        if last is not None:
            last.answered(now_s)

    async def run_writer(self, write: Write) -> None:
        """Writes frames until the link breaks."""
        self._write = write
        await self._outgoing.run()

    def expire(self, grace_s: float = 1.0) -> None:
        """Gives up calls that the agent should have answered `grace_s` ago: no caller waits for ever."""
        limit_s = self._clock.monotonic() - grace_s
        for call_id in [i for i, entry in self._pending.items() if entry.deadline_s < limit_s]:
            entry = self._pending.pop(call_id)
            entry.replica.end(entry, entry.rows)
            self._outgoing.add(call_id)
            if not entry.future.done():
                entry.future.set_exception(DeadlineExceeded("no answer within the deadline; it may have been executed"))

    def close(self) -> None:
        """Fails every waiting call: nothing of it will be answered. Idempotent."""
        self.closed = True
        self.ended.set()
        waiting = list(self._pending.values())
        self._pending.clear()
        for entry in waiting:
            entry.replica.end(entry, entry.rows)
            if not entry.future.done():
                entry.future.set_exception(_lost(self.node))

    async def _flush(self, items: list[Outgoing]) -> None:
        if self._write is None:
            raise RuntimeError("run_writer has not been called")
        for frame, tails in frames(items, self._pending):
            await self._write(join(frame, tails) if tails else frame)

    def _company(self) -> float:
        """Requests that lately were under way together."""
        return self._crowd.at(self._clock.monotonic())


def _lost(node: str) -> Unavailable:
    # The node's name stays out of the text: callers are tenants.
    del node
    return Unavailable(
        "the connection to the machine that serves this model broke; send the request again",
        reason=Reason.AGENT_LOST,
        retry_after_s=0.2,
    )
