"""The open-loop runner.

Each request is sent at its intended time whatever happened before, and its latency counts from that time. A generator
that waits for slow answers, or counts from the moment it got round to sending, hides exactly the delays it should show
(G. Tene calls it coordinated omission).
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import math
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass

from loadgen.arrivals import FloatArray, merge
from loadgen.pacing import Pacer
from loadgen.results import ClientReason, Fate, Recorder, Requests, fate_of
from partywall.clock import Clock, SystemClock
from partywall.errors import InvalidInput, PartywallError

Caller = Callable[[bytes, float], Awaitable[object]]
"""Sends one serialised request under a timeout in seconds; raises `PartywallError` when it was not served."""

_START_DELAY_S = 0.05
_GRACE_S = 1.0


@dataclass(frozen=True, slots=True)
class Stream:
    """One tenant's part of a run.

    Attributes:
        payloads: Serialised requests, sent in turn.
        arrivals_s: Intended send times since the start, ascending.
        objective_ms: Promised latency, for the report; None: no promise.
        deadline_s: After the intended time a request counts as lost; it bounds every wait.
    """

    name: str
    call: Caller
    payloads: Sequence[bytes]
    arrivals_s: FloatArray
    objective_ms: float | None = None
    deadline_s: float = 30.0

    def __post_init__(self) -> None:
        if not self.payloads:
            raise InvalidInput(f"tenant {self.name}: no payloads to send", fields={"field": "payloads"})
        if not (math.isfinite(self.deadline_s) and self.deadline_s > 0):
            raise InvalidInput(
                f"tenant {self.name}: deadline must be above zero, got {self.deadline_s} s",
                fields={"field": "deadline-ms"},
            )


@dataclass(frozen=True, slots=True)
class Progress:
    """Counts of one tenant while the run goes on."""

    name: str
    planned: int
    counts: dict[Fate, int]
    outstanding: int


@dataclass(frozen=True, slots=True)
class RunResult:
    """One run: a table of requests for each tenant, in the order of the streams."""

    requests: tuple[Requests, ...]
    elapsed_s: float
    stopped: bool


class OpenLoopRun:
    """One run over several tenants at once; use it once.

    Args:
        streams: What to send, and when.
        max_outstanding: Requests in flight over all tenants; beyond it the client does not send and says so
            (`CLIENT_LIMIT`).
    """

    def __init__(self, streams: Sequence[Stream], *, max_outstanding: int = 8192, clock: Clock | None = None) -> None:
        self._streams = tuple(streams)
        self._max_outstanding = max_outstanding
        self._clock = clock or SystemClock()
        self._recorders = [Recorder(s.arrivals_s) for s in self._streams]
        self._times_s, self._owner, self._position = merge([s.arrivals_s for s in self._streams])
        self._next = 0
        self._start_s = 0.0
        self._tasks: set[asyncio.Task[None]] = set()
        self._pacer: Pacer | None = None
        self._stopped = False

    async def run(self) -> RunResult:
        """Sends everything, waits for the last answer (at most the longest deadline and a second), and reports."""
        self._start_s = self._clock.monotonic() + _START_DELAY_S
        self._pacer = Pacer(self._times_s + self._start_s, self._clock, self._release)
        with _heap_set_aside():
            try:
                if not self._stopped:
                    await self._pacer.run()
                if self._tasks:
                    await asyncio.wait(self._tasks, timeout=max(s.deadline_s for s in self._streams) + _GRACE_S)
            finally:
                await self._abandon()
        elapsed_s = self._clock.monotonic() - self._start_s
        return RunResult(
            tuple(r.columns(s.name, s.objective_ms) for s, r in zip(self._streams, self._recorders, strict=True)),
            elapsed_s,
            self._stopped,
        )

    def stop(self) -> None:
        """Sends nothing more; what is under way may still finish."""
        self._stopped = True
        if self._pacer is not None:
            self._pacer.stop()

    def progress(self) -> tuple[Progress, ...]:
        """Counts so far, one for each stream."""
        return tuple(
            Progress(s.name, len(s.arrivals_s), dict(r.counts), r.outstanding)
            for s, r in zip(self._streams, self._recorders, strict=True)
        )

    def _release(self, upto: int) -> None:
        loop = asyncio.get_running_loop()
        while self._next < upto:
            owner, position = int(self._owner[self._next]), int(self._position[self._next])
            self._next += 1
            if len(self._tasks) >= self._max_outstanding:
                self._recorders[owner].unsent(position, ClientReason.CLIENT_LIMIT)
                continue
            task = loop.create_task(self._send(self._streams[owner], self._recorders[owner], position))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _send(self, stream: Stream, recorder: Recorder, index: int) -> None:
        intended_s = self._start_s + float(stream.arrivals_s[index])
        lateness_s = self._clock.monotonic() - intended_s
        left_s = stream.deadline_s - lateness_s
        if left_s <= 0:
            recorder.unsent(index, ClientReason.CLIENT_LATE)
            return
        recorder.sending(index, lateness_s)
        fate, reason = Fate.FAILED, str(ClientReason.ABANDONED)
        try:
            await stream.call(stream.payloads[index % len(stream.payloads)], left_s)
            fate, reason = Fate.SERVED, ClientReason.OK
        except PartywallError as error:
            fate, reason = fate_of(error), error.reason
        finally:
            recorder.settled(index, fate, str(reason), self._clock.monotonic() - intended_s)

    async def _abandon(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_GRACE_S)


@contextlib.contextmanager
def _heap_set_aside() -> Iterator[None]:
    """Keeps the collector off what exists already: a full pass over a large program would hold up requests."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
