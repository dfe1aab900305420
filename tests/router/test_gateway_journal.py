"""The last requests of each tenant, in bounded memory."""

from __future__ import annotations

from datetime import timedelta

from partywall.clock import VirtualClock
from partywall.errors import Overloaded, Reason
from partywall.v1 import agent_link_pb2
from router.gateway import journal as module
from router.gateway.journal import KEPT_PER_TENANT, MAX_TENANTS, Journal, Trace

REPLY = agent_link_pb2.InferReply(queue_us=300, service_us=700, batch_requests=2, batch_rows=4)


def serve(journal: Journal, clock: VirtualClock, tenant: str, name: str, model: str = "echo") -> Trace:
    trace = Trace(name, model, clock.monotonic())
    clock.advance(0.001)
    journal.served(tenant, trace, REPLY, 0.001)
    return trace


def test_newest_first_by_model_and_outcome() -> None:
    clock = VirtualClock()
    journal = Journal(clock)
    serve(journal, clock, "t1", "r1")
    journal.failed("t1", Trace("r2", "echo", clock.monotonic()), Overloaded("full", reason=Reason.QUEUE_FULL), 0.0)
    clock.advance(0.1)
    serve(journal, clock, "t1", "r3", "other")
    assert [t.id for t in journal.recent("t1")] == ["r3", "r2", "r1"]
    assert [t.id for t in journal.recent("t1", "echo")] == ["r2", "r1"]
    assert [t.outcome for t in journal.recent("t1", failed_only=True)] == ["QUEUE_FULL"]
    assert [t.id for t in journal.recent("t1", limit=1)] == ["r3"]
    assert [t.id for t in journal.find("t1", "r1")] == ["r1"]
    served = journal.find("t1", "r1")[0]
    assert (served.queue_us, served.service_us, served.batch_rows, served.actual_s) == (300, 700, 4, 0.001)
    assert clock.now() - journal.at(served) == timedelta(seconds=0.102)


def test_tenants_never_see_each_other() -> None:
    clock = VirtualClock()
    journal = Journal(clock)
    serve(journal, clock, "t1", "r1")
    assert journal.find("t2", "r1") == []
    assert journal.recent("t2") == []
    journal.forget("t1")
    assert journal.recent("t1") == []


def test_a_flood_of_refusals_keeps_what_was_served() -> None:
    clock = VirtualClock()
    journal = Journal(clock)
    serve(journal, clock, "t1", "good")
    for number in range(KEPT_PER_TENANT * 3):
        journal.failed("t1", Trace(f"bad-{number}", "echo", clock.monotonic()), Overloaded("full"), 0.0)
    assert journal.find("t1", "good")
    assert len(journal.recent("t1", limit=10_000)) == KEPT_PER_TENANT + 1


def test_the_silent_tenant_is_forgotten_first() -> None:
    clock = VirtualClock()
    journal = Journal(clock)
    for number in range(MAX_TENANTS + 1):
        serve(journal, clock, f"t{number}", "r")
    assert journal.recent("t0") == []
    assert journal.recent("t1")
    assert journal.recent(f"t{MAX_TENANTS}")[0].outcome == module.OK
