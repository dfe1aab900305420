"""The dispatcher's own steps: a cold version is woken within the deadline, and everything leaves its trace."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace

import pytest
from gateway_support import FakeAgent, VirtualTimers, model_route, replica, settle, version
from prometheus_client import CollectorRegistry

from partywall.clock import VirtualClock
from partywall.domain.models import VersionState
from partywall.domain.tenants import Tenant
from partywall.errors import NotFound, NotReady, PartywallError, Reason, Unavailable
from partywall.wire.inference import ModelInferRequest
from router.gateway.attempts import Attempts
from router.gateway.dispatch import Deadlines, Dispatcher
from router.gateway.journal import Journal
from router.gateway.replicas import ModelRoute
from router.gateway.requests import parse_request
from router.gateway.statistics import Statistics
from router.gateway.waking import Waker
from router.policy.hedging import HedgeLimits
from router.policy.routing import RoutingLimits

TENANT = Tenant("t1", "acme", VirtualClock().now())


@dataclass
class Road:
    """A dispatcher with one model, cold at first; `ready` makes it serve."""

    cold_start: bool = True
    load_seconds: float = 0.0
    wishes: int = 0
    woken: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.clock = VirtualClock()
        self.agent = FakeAgent()
        made = version(self.clock, cold_start=self.cold_start)
        self.cold = replace(made, resident=False, state=VersionState.STORED, load_seconds=self.load_seconds)
        self.table: dict[tuple[str, str], ModelRoute] = {("t1", "echo"): model_route(self.cold, ())}
        self.journal = Journal(self.clock)
        registry, routing = CollectorRegistry(), RoutingLimits()
        self.statistics = Statistics(registry)
        later = VirtualTimers(self.clock).later
        self.dispatcher = Dispatcher(
            lambda: self.table,
            None,
            self.statistics,
            routing,
            Deadlines(30.0, 600.0),
            self.clock,
            Attempts(HedgeLimits(), routing, self.clock, registry, later),
            self.journal,
            Waker(self._make_resident),
        )

    async def _make_resident(
        self, tenant: Tenant, name: str, number: int, resident: bool, remaining_s: float | None
    ) -> None:
        self.wishes += 1
        await self.woken.wait()

    def ready(self) -> None:
        warm = replace(self.cold, resident=True, state=VersionState.READY)
        self.table["t1", "echo"] = model_route(warm, (replica(self.agent, "p1"),))
        self.woken.set()

    def send(self, remaining_s: float | None = 5.0, model: str = "echo") -> asyncio.Task[bytes]:
        raw = ModelInferRequest(model_name=model).SerializeToString()
        parsed = parse_request(ModelInferRequest, raw)
        return asyncio.create_task(self.dispatcher.infer(TENANT, raw, parsed, remaining_s, "r1"))


async def refusal(task: asyncio.Task[bytes]) -> PartywallError:
    with pytest.raises(PartywallError) as refused:
        await task
    return refused.value


async def test_a_request_wakes_a_cold_version_and_is_served() -> None:
    road = Road()
    task = road.send()
    await settle()
    assert (road.wishes, road.agent.calls) == (1, [])
    road.clock.advance(2.0)
    road.ready()
    await settle()
    road.agent.answer()
    assert await task == b"ok"
    (trace,) = road.journal.find("t1", "r1")
    assert trace.budget_s == pytest.approx(3.0)
    assert (trace.outcome, trace.replica, trace.attempts) == ("OK", "p1", 1)
    assert trace.actual_s == pytest.approx(2.0)


async def test_one_that_cannot_wait_for_the_load_is_told_when_to_come_back() -> None:
    road = Road(load_seconds=8.0)
    error = await refusal(road.send(remaining_s=5.0))
    assert isinstance(error, Unavailable)
    assert error.retry_after_s == 8.0
    await settle()
    assert road.wishes == 1
    road.woken.set()
    await settle()


async def test_without_the_wish_of_its_owner_nothing_is_woken() -> None:
    road = Road(cold_start=False)
    error = await refusal(road.send())
    assert isinstance(error, NotReady)
    assert road.wishes == 0
    (trace,) = road.journal.recent("t1", failed_only=True)
    assert trace.outcome == Reason.MODEL_NOT_READY


async def test_a_failed_version_is_not_woken_again_by_requests() -> None:
    road = Road()
    road.table["t1", "echo"] = model_route(replace(road.cold, state=VersionState.FAILED, reason="bad"), ())
    assert "bad" in (await refusal(road.send())).message
    assert road.wishes == 0


async def test_an_unknown_model_leaves_a_trace_and_no_label() -> None:
    road = Road()
    assert isinstance(await refusal(road.send(model="nosuch")), NotFound)
    assert road.journal.find("t1", "r1")[0].model == "nosuch"
    assert road.statistics.in_flight == 0
