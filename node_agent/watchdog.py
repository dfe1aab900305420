"""A batch that does not come back: the worker is ended, its callers hear why, and it starts anew."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from isolation.devices.faults import watchdog_s
from node_agent.runner import Runner
from node_agent.workers import WorkerHandle
from partywall.clock import Clock

UNMEASURED_FACTOR = 10.0
"""A replica's first batch has no prediction (kernels are compiled, pages faulted in): it gets this many floors."""


@dataclass(frozen=True, slots=True)
class Stuck:
    """A batch past its limit; seconds. `handle` is its replica."""

    handle: int
    elapsed_s: float
    limit_s: float

    @property
    def reason(self) -> str:
        return f"a batch ran for {self.elapsed_s:.1f} s and counts as stuck after {self.limit_s:.1f} s"


def overdue(runner: Runner, now_s: float, floor_s: float, since_s: float = float("-inf")) -> Stuck | None:
    """The running batch, if it is stuck: past max(3 x predicted, floor) since it, or `since_s`, began."""
    running = runner.oldest_running()
    if running is None:
        return None
    handle, started_s, predicted_s = running
    limit_s = watchdog_s(predicted_s, floor_s) if predicted_s > 0 else UNMEASURED_FACTOR * floor_s
    elapsed_s = now_s - max(started_s, since_s)
    return Stuck(handle, elapsed_s, limit_s) if elapsed_s > limit_s else None


async def watch(
    process: WorkerHandle, runner: Runner, clock: Clock, floor_s: float, on_stuck: Callable[[Stuck], None]
) -> None:
    """Ends the worker at its first stuck batch; runs until then, or until cancelled."""
    since_s = float("-inf")
    while True:
        await asyncio.sleep(floor_s / 4)
        if process.loading:
            # A worker does one thing at a time: while it loads, batches wait inside it.
            since_s = clock.monotonic()
            continue
        stuck = overdue(runner, clock.monotonic(), floor_s, since_s)
        if stuck is not None:
            on_stuck(stuck)
            process.abort(stuck.reason)
            return
