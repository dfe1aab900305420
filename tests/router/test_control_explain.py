"""Explanations: a tenant sees its own requests and decisions, the operator sees all."""

from __future__ import annotations

from datetime import timedelta

import pytest
from control_world import ADMIN, Ports, World, push, refused

from partywall.domain.fleet import Partition, PartitionKind
from partywall.domain.placements import Alternative, Decision, Placement
from partywall.errors import Overloaded, Reason
from partywall.v1 import agent_link_pb2, fleet_pb2, models_pb2
from router.control.explain import DEFAULT_LIMIT, MOST, NoRequests, Requests, bounded
from router.gateway.journal import Journal, Trace


@pytest.fixture
async def ports(ports: Ports, world: World) -> Ports:
    """Both tenants have a live model and two decisions about it."""
    for tenant in ("acme", "globex"):
        await push(ports, tenant, "echo", promote=True)
        entry = world.catalog.models(world.catalog.tenant_by_name(tenant).id)[0]  # type: ignore[union-attr]
        for number, kind in enumerate(("placement", "scale")):
            world.clock.advance(1.0)
            why = Alternative("n/cpu", True, "fits", 2.5)
            name, summary = f"decision-{tenant}-{number}", f"{kind} of {tenant}"
            async with world.catalog.transaction() as tx:
                await tx.insert(Decision(name, kind, entry.model.id, summary, world.clock.now(), (why,), {"rate": "7"}))
    return ports


def list_of(**fields: object) -> models_pb2.ListDecisionsRequest:
    return models_pb2.ListDecisionsRequest(**fields)  # type: ignore[arg-type]


async def test_a_tenant_lists_its_own_decisions(ports: Ports) -> None:
    acme = ports.as_tenant("acme")
    found = (await ports.models.ListDecisions(list_of(), metadata=acme)).decisions
    assert [one.id for one in found] == ["decision-acme-1", "decision-acme-0"]
    assert (found[0].subject, found[0].alternatives[0].choice, found[0].inputs["rate"]) == ("echo", "n/cpu", "7")
    found = (await ports.models.ListDecisions(list_of(kind="scale", model="echo"), metadata=acme)).decisions
    assert [one.kind for one in found] == ["scale"]
    assert len((await ports.models.ListDecisions(list_of(limit=1), metadata=acme)).decisions) == 1
    error = await refused(ports.models.ListDecisions(list_of(model="nosuch"), metadata=acme))
    assert error.reason is Reason.MODEL_NOT_FOUND


async def test_another_tenants_decision_reads_as_absent(ports: Ports) -> None:
    acme = ports.as_tenant("acme")

    def one(name: str) -> models_pb2.GetDecisionRequest:
        return models_pb2.GetDecisionRequest(id=name)

    assert (await ports.models.GetDecision(one("decision-acme-0"), metadata=acme)).summary == "placement of acme"
    foreign = await refused(ports.models.GetDecision(one("decision-globex-0"), metadata=acme))
    absent = await refused(ports.models.GetDecision(one("decision-absent-0"), metadata=acme))
    assert foreign.reason is absent.reason is Reason.NOT_FOUND
    assert foreign.message.replace("globex", "absent") == absent.message


async def test_the_operator_sees_all_tenants(ports: Ports) -> None:
    everyone = fleet_pb2.ListFleetDecisionsRequest()
    found = (await ports.fleet.ListDecisions(everyone, metadata=ADMIN)).decisions
    assert [one.tenant for one in found] == ["globex", "globex", "acme", "acme"]
    one = fleet_pb2.ListFleetDecisionsRequest(id="decision-acme-1", kind="scale")
    assert [d.id for d in (await ports.fleet.ListDecisions(one, metadata=ADMIN)).decisions] == ["decision-acme-1"]
    error = await refused(ports.fleet.ListDecisions(fleet_pb2.ListFleetDecisionsRequest(id="x"), metadata=ADMIN))
    assert "decisions list" in error.message


async def test_requests_with_the_replica_they_went_to(world: World, ports: Ports) -> None:
    tenant = world.catalog.tenant_by_name("acme")
    assert tenant is not None
    entry = world.catalog.models(tenant.id)[0]
    partition = Partition("p1", PartitionKind.CPUSET, "cpu", (1,), 50)
    async with world.catalog.transaction() as tx:
        await tx.insert(Placement("place-1", tenant.id, entry.model.id, 1, "n1", partition, "w1", 1, 1, "free core"))
    served = Trace("r1", "echo", world.clock.monotonic(), 1, predicted_s=0.02, replica="place-1", attempts=1)
    reply = agent_link_pb2.InferReply(queue_us=1500, service_us=2500, batch_requests=1, batch_rows=1)
    world.journal.served(tenant.id, served, reply, 0.005)
    world.clock.advance(2.0)
    late = Overloaded("too late", reason=Reason.DEADLINE_UNREACHABLE)
    world.journal.failed(tenant.id, Trace("r2", "echo", world.clock.monotonic()), late, 0.0)
    acme, globex = ports.as_tenant("acme"), ports.as_tenant("globex")
    answer = await ports.models.ExplainRequest(models_pb2.ExplainRequestRequest(id="r1"), metadata=acme)
    found = answer.requests[0]
    assert (found.predicted_ms, found.actual_ms, found.queue_ms, found.service_ms) == (20.0, 5.0, 1.5, 2.5)
    assert found.at.ToDatetime() == (world.clock.now() - timedelta(seconds=2)).replace(tzinfo=None)
    assert answer.decisions[0].kind == "waiting"
    assert answer.decisions[0].summary == "version 1 is not ready yet on n1, cpuset p1: free core"
    listed = (await ports.models.ListRequests(models_pb2.ListRequestsRequest(), metadata=acme)).requests
    assert [(one.id, one.outcome) for one in listed] == [("r2", "DEADLINE_UNREACHABLE"), ("r1", "OK")]
    only = models_pb2.ListRequestsRequest(failed_only=True, model="echo")
    assert [one.id for one in (await ports.models.ListRequests(only, metadata=acme)).requests] == ["r2"]
    error = await refused(ports.models.ExplainRequest(models_pb2.ExplainRequestRequest(id="r1"), metadata=globex))
    assert error.reason is Reason.NOT_FOUND
    assert not (await ports.models.ListRequests(models_pb2.ListRequestsRequest(), metadata=globex)).requests


async def test_bounds_and_the_empty_journal() -> None:
    assert (bounded(0), bounded(7), bounded(10**6)) == (DEFAULT_LIMIT, 7, MOST)
    assert not await NoRequests().recent("t", "", False, 1)
    assert not await NoRequests().find("t", "r")


@pytest.mark.parametrize("request_id", ["r1", "x" * 500])
async def test_a_journal_without_the_request(request_id: str, world: World) -> None:
    assert not await Requests(Journal(world.clock)).find("t", request_id)
