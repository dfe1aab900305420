"""One admitted request until it is answered once: sent, tried again where that helps, hedged where it is late.

With one replica this is one call and nothing else. Policy and budget are `router.policy.hedging`'s.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from partywall.clock import Clock
from partywall.errors import Overloaded, PartywallError, Reason, Unavailable
from router.gateway.journal import Trace
from router.gateway.replicas import Replica, Reply, Route
from router.policy.hedging import Failure, HedgeLimits, Lateness, TokenBudget, may_retry, worth_hedging
from router.policy.routing import RoutingLimits, decide, predicted_finish_s

_Try = asyncio.Task[Reply]


class Timer(Protocol):
    """A call that is to come; `asyncio.TimerHandle` satisfies it."""

    def cancel(self) -> None: ...


Later = Callable[[float, Callable[[], None]], Timer]
"""Calls back after some seconds."""


def loop_later(seconds: float, call: Callable[[], None]) -> Timer:
    """On the running loop's own clock."""
    return asyncio.get_running_loop().call_later(seconds, call)


@dataclass(slots=True)
class Work:
    """A request that was admitted. `fresh` answers the replicas as they are now; `deadline_s` is on our clock."""

    tenant_id: str
    route: Route
    fresh: Callable[[Work], Sequence[Replica]]
    raw: bytes
    rows: int
    deadline_s: float
    request_id: str
    trace: Trace

    @property
    def repeatable(self) -> bool:
        return not self.route.version.manifest.side_effects


class Attempts(Collector):
    """Sends requests; its counters read at `/metrics`."""

    def __init__(
        self, limits: HedgeLimits, routing: RoutingLimits, clock: Clock, registry: CollectorRegistry, later: Later
    ) -> None:
        self._limits = limits
        self._routing = routing
        self._clock = clock
        self._later = later
        self._budget = TokenBudget(limits)
        self._lateness: dict[str, Lateness] = {}
        self.counts = dict.fromkeys(("retry", "retry_won", "hedge", "hedge_won", "no_budget"), 0)
        registry.register(self)

    async def call(self, work: Work, replica: Replica, predicted_s: float) -> Reply:
        """The answer, exactly one, of whichever replica gave it first.

        Raises:
            PartywallError: The failure of the last try.
        """
        self._budget.deposit()
        work.trace.attempts, work.trace.replica = 1, replica.placement.id
        tried, deaths = [replica], 0
        while True:
            try:
                if len(work.route.replicas) > 1 and len(tried) == 1 and work.repeatable:
                    return await self._hedged(work, replica, predicted_s)
                reply = await self._send(work, replica)
                self.counts["retry_won"] += len(tried) > 1
                return reply
            except PartywallError as error:
                deaths += error.reason is Reason.WORKER_DIED
                left_s = work.deadline_s - self._clock.monotonic()
                failure = Failure(error, work.trace.attempts, deaths, left_s, work.repeatable)
                other = self._other(work, tried, left_s) if may_retry(failure, self._limits) else None
                if other is None or not self._afford("retry"):
                    raise
            replica = other
            tried.append(replica)
            work.trace.attempts += 1
            work.trace.replica = replica.placement.id

    async def _send(self, work: Work, replica: Replica) -> Reply:
        session = replica.session
        if session is None:
            raise Unavailable(
                "the replica is away; send the request again", reason=Reason.NO_REPLICA, retry_after_s=0.2
            )
        left_s = work.deadline_s - self._clock.monotonic()
        return await session.call(replica, work.raw, work.rows, left_s, work.request_id)

    async def _hedged(self, work: Work, replica: Replica, predicted_s: float) -> Reply:
        """The first try, with a second one beside it as soon as it is late."""
        lateness = self._lateness_of(work)
        delay_s = lateness.delay_s(predicted_s) if self._limits.hedge else None
        started_s = self._clock.monotonic()
        if delay_s is None:
            reply = await self._send(work, replica)
        else:
            tries: dict[_Try, Replica] = {asyncio.create_task(self._send(work, replica)): replica}
            late = asyncio.get_running_loop().create_future()
            timer = self._later(delay_s, lambda: None if late.done() else late.set_result(None))
            try:
                await asyncio.wait((*tries, late), return_when=asyncio.FIRST_COMPLETED)
                if not any(one.done() for one in tries):
                    self._second(work, replica, predicted_s, started_s, tries)
                reply = await self._first_answer(work, tries)
            finally:
                timer.cancel()
                late.cancel()
                for one in tries:
                    one.cancel()
        if not work.trace.hedged:
            lateness.observe(predicted_s, self._clock.monotonic() - started_s)
        return reply

    def _second(
        self, work: Work, replica: Replica, predicted_s: float, started_s: float, tries: dict[_Try, Replica]
    ) -> None:
        """Sends the late request to another replica too, if that is likely to help and can be paid for."""
        now_s = self._clock.monotonic()
        left_s = work.deadline_s - now_s
        other = self._other(work, [replica], left_s)
        if other is None:
            return
        second_s = predicted_finish_s(other, work.rows, now_s)
        if worth_hedging(now_s - started_s, predicted_s, second_s, left_s) and self._afford("hedge"):
            tries[asyncio.create_task(self._send(work, other))] = other
            work.trace.hedged = True
            work.trace.attempts += 1

    async def _first_answer(self, work: Work, tries: dict[_Try, Replica]) -> Reply:
        """The first success; the failure of the last one when there is none."""
        pending = set(tries)
        while True:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for one in done:
                work.trace.replica = tries[one].placement.id
                if one.exception() is None:
                    self.counts["hedge_won"] += work.trace.hedged and one is not next(iter(tries))
                    return one.result()
            if not pending:
                # A failure of the second try must not hide the first one's: it decides what may be repeated.
                return await next(iter(tries))

    def _other(self, work: Work, tried: Sequence[Replica], left_s: float) -> Replica | None:
        """The best replica that was not tried yet and would be in time."""
        others = [r for r in work.fresh(work) if r not in tried]
        if not others or left_s <= 0:
            return None
        try:
            return decide(others, work.rows, left_s, self._clock.monotonic(), self._routing)[0]
        except Overloaded:
            return None

    def _afford(self, kind: str) -> bool:
        if not self._budget.withdraw():
            self.counts["no_budget"] += 1
            return False
        self.counts[kind] += 1
        return True

    def _lateness_of(self, work: Work) -> Lateness:
        key = work.route.version.artifact_id
        known = self._lateness.get(key)
        if known is None:
            if len(self._lateness) >= 10_000:
                self._lateness.clear()
            known = self._lateness[key] = Lateness(self._limits)
        return known

    def collect(self) -> Iterable[Metric]:
        """Extra tries by kind, and the tokens that are left."""
        extra = CounterMetricFamily(
            "partywall_attempts",
            "Extra tries of requests: retry and hedge were sent, _won gave the answer, no_budget were not sent",
            labels=("kind",),
        )
        for kind, count in self.counts.items():
            extra.add_metric([kind], count)
        return (
            extra,
            GaugeMetricFamily("partywall_attempt_tokens", "Extra tries that may be sent", self._budget.tokens),
        )
