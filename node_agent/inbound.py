"""What an agent does with the frames that its router sends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator

import structlog

from node_agent.connection import CallContext, Connection
from node_agent.link_seams import EpochGuard, ProfileJobs, Replicas
from node_agent.queueing import Queued
from partywall.clock import Clock
from partywall.errors import Unsupported
from partywall.v1 import agent_link_pb2 as link
from partywall.wire.convert import error_to_proto
from partywall.wire.frames import Frames

log = structlog.get_logger(__name__)


class Inbound:
    """The reading half of a link; what belongs to one connection is in the `Connection` that each call is given."""

    def __init__(
        self,
        replicas: Replicas,
        epoch: EpochGuard,
        clock: Clock,
        profiles: ProfileJobs | None,
        request_ids: Iterator[int],
        report_profile: Callable[[link.ProfileProgress], None],
    ) -> None:
        self._replicas = replicas
        self._epoch = epoch
        self._clock = clock
        self._profiles = profiles
        self._request_ids = request_ids
        self._report_profile = report_profile
        self._jobs: list[str] = []

    async def read(self, frames: Frames[link.RouterFrame], connection: Connection) -> None:
        """Obeys frame by frame, until there are no more."""
        while (opened := await frames.read()) is not None:
            connection.heard = True
            frame, tails = opened
            if frame.HasField("desired"):
                self._on_desired(connection, frame.desired)
            if frame.HasField("handles"):
                self._take_handles(connection, ((one.placement_id, one.handle) for one in frame.handles.entries))
            if frame.calls:
                now_s = self._clock.monotonic()
                for message in frame.calls:
                    request = tails[message.tail - 1] if message.tail else message.request
                    self._on_call(connection, message, request, now_s)
            if frame.attest:
                connection.attesting = asyncio.create_task(self._attest(connection, frame.attest))
            for job in frame.profile_jobs:
                self._start_profile(job)
            for job_id in frame.profile_cancels:
                self._cancel_profile(job_id)
            for call_id in frame.cancels:
                known = connection.calls.pop(call_id, None)
                if known is not None:
                    self._replicas.cancel(known[1], known[0])

    def _on_desired(self, connection: Connection, desired: link.Desired) -> None:
        if not self._epoch.accept(desired.epoch):
            log.warning("stale leader refused", epoch=desired.epoch, seen=self._epoch.seen)
            return
        connection.generation = desired.generation
        self._take_handles(connection, ((spec.placement_id, spec.handle) for spec in desired.placements))
        self._replicas.apply(desired.placements)

    def _take_handles(self, connection: Connection, pairs: Iterable[tuple[str, int]]) -> None:
        # What was sent before the router took a replica away still finds it: it drains.
        standing = {status.placement_id for status in self._replicas.statuses()}
        leaving = {handle: name for handle, name in connection.placements.items() if name in standing}
        connection.handles = dict(pairs)
        connection.placements = leaving | {handle: name for name, handle in connection.handles.items()}

    async def _attest(self, connection: Connection, number: int) -> None:
        connection.outgoing.add(link.Attested(number=number, replicas=await self._replicas.attest()))

    def _start_profile(self, job: link.ProfileJob) -> None:
        if self._profiles is None:
            error = Unsupported("this agent takes no profile jobs; choose another node (--node)")
            self._report_profile(link.ProfileProgress(id=job.id, error=error_to_proto(error)))
            return
        self._jobs.append(job.id)
        self._profiles.start(job)

    def _cancel_profile(self, job_id: str) -> None:
        if self._profiles is not None and job_id in self._jobs:
            self._jobs.remove(job_id)
            self._profiles.cancel(job_id)

    def _on_call(
        self, connection: Connection, message: link.InferCall, request: bytes | memoryview, now_s: float
    ) -> None:
        deadline_s = now_s + message.timeout_us / 1e6
        placement_id = connection.placements.get(message.handle, "")
        item = Queued(
            id=next(self._request_ids),
            handle=0,
            rows=max(1, message.rows),
            request=request,
            arrived_s=now_s,
            deadline_s=deadline_s,
            due_s=deadline_s,
            context=CallContext(connection, message.id),
        )
        connection.calls[message.id] = (item.id, placement_id)
        self._replicas.submit(placement_id, item)

    def abandon(self, connection: Connection | None) -> None:
        """The connection is gone: nobody waits for what is queued from it, nor for the link's profile jobs."""
        for job_id in list(self._jobs):
            self._cancel_profile(job_id)
        if connection is None:
            return
        connection.open = False
        calls, connection.calls = connection.calls, {}
        for request_id, placement_id in calls.values():
            self._replicas.cancel(placement_id, request_id)
