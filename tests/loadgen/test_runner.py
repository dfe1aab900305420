"""The open loop: intended times, coordinated omission, limits, bounded ends."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from loadgen.results import ClientReason, Fate, Requests
from loadgen.runner import OpenLoopRun, RunResult, Stream
from partywall import errors


def reasons(requests: Requests) -> list[str]:
    return [str(requests.reasons[code]) for code in requests.reason]


async def serve(_payload: bytes, _timeout_s: float) -> None:
    return


async def never(_payload: bytes, _timeout_s: float) -> None:
    await asyncio.Event().wait()


def stream(call: object, times: list[float], **options: object) -> Stream:
    return Stream("acme", call, [b"a", b"b"], np.array(times), **options)  # type: ignore[arg-type]


async def run(*streams: Stream, **options: int) -> RunResult:
    return await asyncio.wait_for(OpenLoopRun(streams, **options).run(), 20)


async def test_all_is_sent_near_its_time_and_payloads_take_turns() -> None:
    sent: list[bytes] = []

    async def call(payload: bytes, _timeout_s: float) -> None:
        sent.append(payload)

    result = await run(stream(call, [0.0, 0.01, 0.02, 0.03]))
    (requests,) = result.requests
    assert sent == [b"a", b"b", b"a", b"b"]
    assert (requests.fate == Fate.SERVED).all()
    assert (requests.lateness_s >= 0).all()
    assert np.median(requests.lateness_s) < 0.02
    assert not result.stopped


async def test_a_stalled_server_does_not_hold_back_later_requests() -> None:
    """While the first answer is outstanding all others are sent: no coordinated omission."""
    gate = asyncio.Event()
    started: list[bytes] = []

    async def call(payload: bytes, _timeout_s: float) -> None:
        started.append(payload)
        if len(started) == 5:
            gate.set()
        await gate.wait()

    (requests,) = (await run(stream(call, [0.0, 0.05, 0.1, 0.15, 0.2]))).requests
    assert (requests.fate == Fate.SERVED).all()
    # All ended together, so what was to be sent earlier waited longer, counted from its intended time.
    assert requests.latency_s[0] >= 0.2
    assert (np.diff(requests.latency_s + requests.intended_s) < 0.05).all()


async def test_a_blocked_generator_shows_in_latency_and_lateness() -> None:
    """If the client's own loop stands still, the delay is counted, and blamed on the client."""

    async def call(_payload: bytes, _timeout_s: float) -> None:
        if not blocked:
            blocked.append(True)
            gate = asyncio.get_running_loop().time() + 0.2
            while asyncio.get_running_loop().time() < gate:
                pass

    blocked: list[bool] = []
    (requests,) = (await run(stream(call, [0.0, 0.05]))).requests
    assert requests.lateness_s[1] > 0.1
    assert requests.latency_s[1] >= requests.lateness_s[1]


@pytest.mark.parametrize(
    ("error", "fate"),
    [
        (errors.QuotaExceeded("x"), Fate.REFUSED),
        (errors.Overloaded("x"), Fate.REFUSED),
        (errors.NotFound("x", reason=errors.Reason.MODEL_NOT_FOUND), Fate.REFUSED),
        (errors.Unavailable("x", reason=errors.Reason.WORKER_DIED), Fate.FAILED),
        (errors.DeadlineExceeded("x"), Fate.FAILED),
        (errors.InternalError("x"), Fate.FAILED),
    ],
)
async def test_errors_are_kept_by_reason(error: errors.PartywallError, fate: Fate) -> None:
    async def call(_payload: bytes, _timeout_s: float) -> None:
        raise error

    (requests,) = (await run(stream(call, [0.0]))).requests
    assert requests.fate.tolist() == [fate]
    assert reasons(requests) == [error.reason.value]


async def test_beyond_the_limit_the_client_says_that_it_did_not_send() -> None:
    result = await run(stream(never, [0.0, 0.0, 0.01], deadline_s=0.2), max_outstanding=2)
    (requests,) = result.requests
    assert reasons(requests) == [ClientReason.ABANDONED, ClientReason.ABANDONED, ClientReason.CLIENT_LIMIT]
    assert requests.fate.tolist() == [Fate.FAILED, Fate.FAILED, Fate.UNSENT]
    assert np.isnan(requests.latency_s[2])


async def test_the_time_left_is_passed_on() -> None:
    given: list[float] = []

    async def call(_payload: bytes, timeout_s: float) -> None:
        given.append(timeout_s)

    (requests,) = (await run(stream(call, [0.0], deadline_s=2.0))).requests
    assert given[0] == pytest.approx(2.0 - requests.lateness_s[0])


async def test_too_late_is_not_sent() -> None:
    (requests,) = (await run(stream(serve, [0.0], deadline_s=1e-9))).requests
    assert reasons(requests) == [ClientReason.CLIENT_LATE]
    assert requests.fate.tolist() == [Fate.UNSENT]


async def test_stop_ends_early_and_says_so() -> None:
    running: list[OpenLoopRun] = []

    async def call(_payload: bytes, _timeout_s: float) -> None:
        running[0].stop()

    running.append(OpenLoopRun([stream(call, [0.0, 300.0])]))
    result = await asyncio.wait_for(running[0].run(), 10)
    (requests,) = result.requests
    assert result.stopped
    assert reasons(requests) == [ClientReason.OK, ClientReason.CLIENT_STOPPED]


async def test_cancelling_leaves_nothing_running() -> None:
    begun = asyncio.Event()
    ended = asyncio.Event()

    async def call(_payload: bytes, _timeout_s: float) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    task = asyncio.ensure_future(OpenLoopRun([stream(call, [0.0])]).run())
    await asyncio.wait_for(begun.wait(), 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()


async def test_progress_counts() -> None:
    loop_run = OpenLoopRun([stream(serve, [0.0, 0.01])])
    assert loop_run.progress()[0].counts[Fate.SERVED] == 0
    await asyncio.wait_for(loop_run.run(), 10)
    (progress,) = loop_run.progress()
    assert (progress.planned, progress.counts[Fate.SERVED], progress.outstanding) == (2, 2, 0)


async def test_several_streams_keep_their_own_columns() -> None:
    async def refuse(_payload: bytes, _timeout_s: float) -> None:
        raise errors.QuotaExceeded("x")

    other = Stream("globex", refuse, [b"x"], np.array([0.005]), objective_ms=5)
    acme, globex = (await run(stream(serve, [0.0, 0.01]), other)).requests
    assert (acme.name, len(acme), globex.name, len(globex)) == ("acme", 2, "globex", 1)
    assert globex.fate.tolist() == [Fate.REFUSED]
    assert globex.objective_ms == 5


@pytest.mark.parametrize("options", [{"deadline_s": 0.0}, {"deadline_s": float("inf")}])
def test_unbounded_waits_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(errors.InvalidInput, match="deadline"):
        stream(serve, [0.0], **options)


def test_nothing_to_send_is_refused() -> None:
    with pytest.raises(errors.InvalidInput, match="no payloads"):
        Stream("acme", serve, [], np.array([0.0]))
