"""A push meets a router that is being started again: nobody listens for a while. Flows on a virtual clock."""

from __future__ import annotations

import random
from typing import Any

import pytest

from partywall import errors
from partywall.client.flow import MODELS, Call, Caller, Flow, Sleep
from partywall.client.push import call_restarting
from partywall.client.retry import EXECUTED_FIELD
from partywall.clock import VirtualClock
from partywall.errors import Reason
from partywall.v1 import models_pb2

REFUSED = errors.Unavailable("refused", reason=Reason.UNREACHABLE, fields={EXECUTED_FIELD: "no"})
BROKEN = errors.Unavailable("reset", reason=Reason.UNREACHABLE, fields={EXECUTED_FIELD: "unknown"})
DRAINING = errors.Unavailable("draining", reason=Reason.DRAINING)


class Restarting:
    """Nobody listens before `back_s`."""

    def __init__(self, back_s: float, error: errors.PartywallError = REFUSED, timeout_s: float = 30.0) -> None:
        self.clock = VirtualClock()
        self.caller = Caller(self.clock, timeout_s=timeout_s, rng=random.Random(7))
        self.calls: list[Call] = []
        self._back_s, self._error = back_s, error

    def push_begins(self, *, idempotent: bool = False) -> Any:
        request = models_pb2.BeginVersionRequest(model="m")
        return self._run(call_restarting(self.caller, MODELS["BeginVersion"], request, idempotent=idempotent))

    def _run(self, flow: Flow[Any]) -> Any:
        try:
            action = next(flow)
            while True:
                if isinstance(action, Sleep):
                    self.clock.advance(action.seconds)
                    action = flow.send(None)
                    continue
                assert isinstance(action, Call)
                self.calls.append(action)
                back = self.clock.monotonic() >= self._back_s
                action = flow.send("begun") if back else flow.throw(self._error)
        except StopIteration as stop:
            return stop.value


@pytest.mark.parametrize("back_s", [0.0, 0.3, 3.0, 8.0])
def test_the_first_call_waits_for_a_router_that_comes_back(back_s: float) -> None:
    world = Restarting(back_s)
    assert world.push_begins() == "begun"
    assert back_s <= world.clock.monotonic() <= back_s + 1.5
    # All tries together fit into the caller's time-out.
    assert all(call.timeout_s <= 30.0 for call in world.calls)
    assert world.calls[-1].timeout_s <= 30.0 - back_s + 1e-9


@pytest.mark.parametrize(("timeout_s", "limit_s"), [(30.0, 10.0), (2.0, 2.0)])
def test_the_wait_is_bounded(timeout_s: float, limit_s: float) -> None:
    world = Restarting(1e9, timeout_s=timeout_s)
    with pytest.raises(errors.Unavailable) as caught:
        world.push_begins()
    assert caught.value is REFUSED
    assert limit_s / 2 < world.clock.monotonic() <= limit_s


def test_what_may_have_been_done_is_not_repeated_unless_it_may_be() -> None:
    world = Restarting(1e9, BROKEN)
    with pytest.raises(errors.Unavailable):
        world.push_begins()
    assert len(world.calls) == 1
    again = Restarting(2.0, BROKEN)
    assert again.push_begins(idempotent=True) == "begun"


def test_other_refusals_are_tried_as_often_as_ever() -> None:
    world = Restarting(1e9, DRAINING)
    with pytest.raises(errors.Unavailable):
        world.push_begins()
    assert len(world.calls) == 3
