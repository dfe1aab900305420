"""One answer per request: retries on another replica, hedges of late ones, losers cancelled. Virtual time."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest
from gateway_support import FakeAgent, VirtualTimers, model_route, replica, settle, version
from prometheus_client import CollectorRegistry

from partywall.clock import VirtualClock
from partywall.errors import DeadlineExceeded, Overloaded, PartywallError, Reason, Unavailable
from partywall.v1 import agent_link_pb2
from router.gateway.attempts import Attempts, Work
from router.gateway.journal import Trace
from router.gateway.replicas import Replica
from router.policy.hedging import HedgeLimits
from router.policy.routing import RoutingLimits

LOST = Unavailable("link", reason=Reason.AGENT_LOST)
DIED = Unavailable("worker", reason=Reason.WORKER_DIED)
DRAINING = Unavailable("stopping", reason=Reason.DRAINING)
Task = asyncio.Task[agent_link_pb2.InferReply]


@dataclass
class Bench:
    """Two agents with a replica each, and requests sent to the first."""

    limits: HedgeLimits = field(default_factory=lambda: HedgeLimits(least_samples=4, window=8))
    manifest: dict[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.clock = VirtualClock()
        self.timers = VirtualTimers(self.clock)
        self.registry = CollectorRegistry()
        self.agents = [FakeAgent("a"), FakeAgent("b")]
        self.replicas = [replica(agent, name) for agent, name in zip(self.agents, ("ra", "rb"), strict=True)]
        self.attempts = Attempts(self.limits, RoutingLimits(), self.clock, self.registry, self.timers.later)
        self.trace = Trace("r1", "echo", 0.0)

    def send(self, replicas: list[Replica] | None = None, predicted_s: float = 0.01, budget_s: float = 1.0) -> Task:
        chosen = self.replicas if replicas is None else replicas
        route = model_route(version(self.clock, **self.manifest), tuple(chosen)).versions[1]
        self.trace = Trace("r1", "echo", self.clock.monotonic())
        deadline_s = self.clock.monotonic() + budget_s
        work = Work("t1", route, lambda work: self.replicas, b"raw", 1, deadline_s, "r1", self.trace)
        return asyncio.create_task(self.attempts.call(work, chosen[0], predicted_s))

    async def learn(self, count: int = 4, ratio: float = 1.0) -> None:
        """Requests that take `ratio` of what was predicted."""
        for _ in range(count):
            task = self.send()
            await self.timers.advance(0.01 * ratio)
            self.agents[0].answer()
            await settle()
            await task

    def count(self, kind: str) -> float | None:
        return self.registry.get_sample_value("partywall_attempts_total", {"kind": kind})


async def refusal(task: Task) -> PartywallError:
    with pytest.raises(PartywallError) as refused:
        await task
    return refused.value


@pytest.mark.parametrize("error", [LOST, DIED, DRAINING])
async def test_a_failed_replica_costs_the_caller_nothing(error: Unavailable) -> None:
    bench = Bench()
    task = bench.send()
    await settle()
    bench.agents[0].fail(error)
    await settle()
    bench.agents[1].answer(response=b"second")
    assert (await task).response == b"second"
    assert (bench.count("retry"), bench.count("retry_won")) == (1, 1)
    assert (bench.trace.attempts, bench.trace.replica, bench.trace.hedged) == (2, "rb", False)


async def test_a_replica_that_came_meanwhile_takes_the_retry() -> None:
    bench = Bench()
    task = bench.send([bench.replicas[0]])
    await settle()
    bench.agents[0].fail(DRAINING)
    await settle()
    bench.agents[1].answer()
    await task
    assert bench.trace.replica == "rb"


async def test_side_effects_are_not_repeated_unless_nothing_ran() -> None:
    bench = Bench(manifest={"side_effects": True})
    task = bench.send()
    await settle()
    bench.agents[0].fail(LOST)
    assert (await refusal(task)).reason is Reason.AGENT_LOST
    assert not bench.agents[1].calls
    task = bench.send()
    await settle()
    bench.agents[0].fail(DRAINING)
    await settle()
    bench.agents[1].answer()
    await task


async def test_what_kills_two_workers_is_given_up() -> None:
    bench = Bench()
    bench.replicas.append(replica(FakeAgent("c"), "rc"))
    task = bench.send()
    await settle()
    bench.agents[0].fail(DIED)
    await settle()
    bench.agents[1].fail(DIED)
    assert (await refusal(task)).reason is Reason.WORKER_DIED
    assert bench.trace.attempts == 2


async def test_refusals_and_late_failures_are_final() -> None:
    bench = Bench()
    for error in (Overloaded("full"), DeadlineExceeded("late")):
        task = bench.send()
        await settle()
        bench.agents[0].fail(error)
        assert (await refusal(task)).reason is error.reason
    task = bench.send(budget_s=0.05)
    await bench.timers.advance(0.06)
    bench.agents[0].fail(LOST)
    assert (await refusal(task)).reason is Reason.AGENT_LOST
    assert not bench.agents[1].calls


async def test_nothing_is_tried_where_it_cannot_be_in_time() -> None:
    bench = Bench()
    for _ in range(20):
        bench.replicas[1].service.observe(1, 50.0, 0.0)
    task = bench.send(budget_s=0.5)
    await settle()
    bench.agents[0].fail(LOST)
    await refusal(task)
    assert bench.count("retry") == 0


async def test_the_budget_ends_retries_in_a_storm() -> None:
    bench = Bench(HedgeLimits(burst=4, ratio=0.0))
    for _ in range(10):
        task = bench.send()
        await settle()
        bench.agents[0].fail(DRAINING)
        await settle()
        if bench.agents[1].calls and not bench.agents[1].calls[-1][1].done():
            bench.agents[1].answer()
            await task
        else:
            await refusal(task)
    assert (bench.count("retry"), bench.count("no_budget")) == (2, 8)
    assert len(bench.agents[1].calls) == 2


async def test_a_late_request_is_hedged_and_the_loser_cancelled() -> None:
    bench = Bench()
    await bench.learn()
    task = bench.send()
    await bench.timers.advance(0.009)
    assert not bench.agents[1].calls
    await bench.timers.advance(0.01)
    assert len(bench.agents[1].calls) == 1
    bench.agents[1].answer(response=b"hedge")
    assert (await task).response == b"hedge"
    await settle()
    assert bench.agents[0].cancelled == 1
    assert (bench.count("hedge"), bench.count("hedge_won"), bench.count("retry")) == (1, 1, 0)
    assert bench.trace.hedged
    assert bench.trace.replica == "rb"


async def test_the_first_may_still_win_and_a_failing_hedge_is_no_failure() -> None:
    bench = Bench()
    await bench.learn()
    task = bench.send()
    await bench.timers.advance(0.02)
    bench.agents[1].fail(DIED)
    await settle()
    assert not task.done()
    bench.agents[0].answer(response=b"first")
    assert (await task).response == b"first"
    assert bench.count("hedge_won") == 0


async def test_when_both_fail_the_first_failure_decides() -> None:
    bench = Bench(HedgeLimits(least_samples=4, window=8, tries=2))
    await bench.learn()
    task = bench.send()
    await bench.timers.advance(0.02)
    bench.agents[1].fail(DIED)
    bench.agents[0].fail(LOST)
    assert (await refusal(task)).reason is Reason.AGENT_LOST


async def test_no_hedge_with_one_replica_before_enough_is_known_or_when_off() -> None:
    bench = Bench()
    task = bench.send()
    await bench.timers.advance(5.0)
    assert not bench.agents[1].calls
    bench.agents[0].answer()
    await task
    for other in (Bench(HedgeLimits(hedge=False, least_samples=4)), Bench(manifest={"side_effects": True})):
        await other.learn()
        task = other.send()
        await other.timers.advance(0.5)
        assert not other.agents[1].calls
        other.agents[0].answer()
        await task


async def test_a_caller_that_leaves_takes_both_tries_back() -> None:
    bench = Bench()
    await bench.learn()
    task = bench.send()
    await bench.timers.advance(0.02)
    task.cancel()
    await settle()
    assert task.cancelled()
    assert [agent.cancelled for agent in bench.agents] == [1, 1]


async def test_a_replica_without_its_agent_counts_as_not_executed() -> None:
    bench = Bench(manifest={"side_effects": True})
    bench.replicas[0].session = None
    task = bench.send()
    await settle()
    bench.agents[1].answer()
    await task
    assert bench.count("retry") == 1
