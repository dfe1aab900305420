"""Profiles in the control plane: sealed in the store, gone with the version, one job at a time."""

from __future__ import annotations

from dataclasses import replace

import pytest
from control_world import ADMIN, Ports, World, push
from profiling_fleet import PROFILE, Fleet, live, record

from partywall.domain.models import Version
from partywall.errors import DataLoss, NotFound, NotReady, PermissionDenied, Reason, Unavailable
from partywall.v1 import models_pb2, tenants_pb2
from partywall.v1 import profiles_pb2 as pb
from partywall.wire import convert
from router.control.profile_book import ProfileBook


@pytest.fixture
async def ports(ports: Ports) -> Ports:
    """Both tenants have a live model `m`."""
    for name in ("acme", "globex"):
        await push(ports, name, "m", promote=True)
    return ports


async def test_a_profile_is_sealed_and_survives_a_restart(world: World, ports: Ports) -> None:
    book = ProfileBook(world.control)
    version = live(world, "acme")
    await book.put(version, record())
    stored = world.catalog.profiles(version.model_id)
    assert len(stored) == 1
    assert b"probe:" not in stored[0].sealed
    again = ProfileBook(world.control)
    await again.open()
    assert again.profile(version.model_id, 1, "CPU x2") == replace(PROFILE, device_type="CPU x2")
    alone = PROFILE.solo_at_ms or {(PROFILE.batch, share): ms for share, ms in PROFILE.solo_ms.items()}
    assert again.curve(version.model_id, 1, "CPU x2") == {at: ms / 1e3 for at, ms in alone.items()}
    assert again.curve(version.model_id, 2, "CPU x2") == {}
    await again.put(version, record(done=False))
    assert again.profile(version.model_id, 1, "CPU x2") is None
    assert len(again.records(version.model_id, 1)) == 1


async def test_deleting_the_model_deletes_its_profile(world: World, ports: Ports) -> None:
    book = ProfileBook(world.control)
    version = live(world, "acme")
    await book.put(version, record())
    request = models_pb2.DeleteModelRequest(name="m")
    await ports.models.DeleteModel(request, metadata=ports.as_tenant("acme"))
    assert not world.catalog.profiles()
    assert not book.records(version.model_id, 1)
    with pytest.raises(DataLoss, match="data key"):
        await book.put(version, record())


async def test_a_shredded_tenant_s_profile_opens_nowhere(world: World, ports: Ports) -> None:
    book = ProfileBook(world.control)
    version = live(world, "acme")
    await book.put(version, record())
    world.keys.shred(str(world.catalog.tenant_by_name("acme").id))  # type: ignore[union-attr]
    again = ProfileBook(world.control)
    await again.open()
    assert not again.records(version.model_id, 1)


async def test_a_job_runs_from_start_to_profile(world: World, ports: Ports) -> None:
    fleet = Fleet(world)
    await fleet.stand("acme")
    assert (await fleet.start()).job.state == pb.PROFILE_STATE_RUNNING
    await fleet.start()
    assert len(fleet.sent) == 1, "a second call joins the job"
    job = fleet.sent[0]
    assert job.spec.model == "m"
    assert len(job.spec.data_key) == 32
    assert list(job.spec.partition.cores) == [0, 1]
    half = await fleet.tell(done=1, total=2, label="solo", record=record(done=False))
    assert (half.job.done, half.job.total, half.records[0].HasField("profile")) == (1, 2, False)
    finished: list[Version] = []
    fleet.jobs.on_profile(finished.append)
    whole = await fleet.tell(done=2, total=2, label="beside", record=record())
    assert whole.job.state == pb.PROFILE_STATE_DONE
    assert whole.records[0].node == "n1"
    assert [v.number for v in finished] == [1]
    assert "profile.started" in world.audit.names


async def test_a_failed_job_goes_on_where_it_stopped(world: World, ports: Ports) -> None:
    fleet = Fleet(world)
    await fleet.stand("acme")
    await fleet.start()
    await fleet.tell(done=1, total=2, record=record(done=False))
    failed = await fleet.tell(error=convert.error_to_proto(Unavailable("the worker died")))
    assert failed.job.state == pb.PROFILE_STATE_FAILED
    assert "worker died" in failed.job.message
    await fleet.start()
    assert [run.key for run in fleet.sent[1].earlier.runs] == ["@50x1"]


async def test_probes_are_measured_once_for_a_type_of_device(world: World, ports: Ports) -> None:
    fleet = Fleet(world)
    await fleet.stand("acme")
    theirs = record()
    own = "probe:llc:1.0@50+probe:llc:1.0@50"
    theirs.runs.add(key=own, values={"probe_slowdown": 2.0})
    await fleet.book.put(live(world, "globex"), theirs)
    await fleet.start(settings=pb.ProfileSettings(quick=True))
    assert [run.key for run in fleet.sent[0].known] == [own], "the probe's run, and nothing of the other tenant's model"
    assert not fleet.book.probe_runs("CPU x2", quick=False)


async def test_a_cancelled_job_is_told_to_the_agent(world: World, ports: Ports) -> None:
    fleet = Fleet(world)
    await fleet.stand("acme")
    await fleet.start()
    owner = world.catalog.tenant_by_name("acme")
    assert owner is not None
    assert fleet.jobs.cancel(owner, "m", 0).job.reason == Reason.CANCELLED.value
    assert fleet.sent[1] == fleet.sent[0].id


async def test_a_lost_agent_fails_its_job(world: World, ports: Ports) -> None:
    fleet = Fleet(world)
    await fleet.stand("acme")
    await fleet.start()
    fleet.session.close()
    owner = world.catalog.tenant_by_name("acme")
    assert owner is not None
    assert fleet.jobs.show(owner, "m", 0).job.reason == Reason.AGENT_LOST.value


@pytest.mark.parametrize(("operator", "word"), [(True, "globex/m"), (False, "another tenant's model")])
async def test_a_busy_device_is_refused_and_says_who(world: World, ports: Ports, operator: bool, word: str) -> None:
    fleet = Fleet(world)
    await fleet.stand("acme")
    await fleet.stand("globex")
    fleet.membership.replicas_by_id["p-globex"].outstanding_requests = 1
    with pytest.raises(NotReady, match=word):
        await fleet.start(operator=operator)
    anyway = pb.ProfileSettings(anyway=True)
    if not operator:
        with pytest.raises(NotReady, match="ask the operator"):
            await fleet.start(operator=False, settings=anyway)
        return
    assert (await fleet.start(operator=True, settings=anyway)).job.state == pb.PROFILE_STATE_RUNNING
    fleet.jobs.make_way()
    assert fleet.jobs.measuring("n1")


async def test_a_tenant_s_own_traffic_may_be_measured_along(world: World, ports: Ports) -> None:
    fleet = Fleet(world)
    await fleet.stand("acme")
    fleet.membership.replicas_by_id["p-acme"].outstanding_requests = 1
    with pytest.raises(NotReady, match="--anyway"):
        await fleet.start(operator=False)
    await fleet.start(operator=False, settings=pb.ProfileSettings(anyway=True))


async def test_a_job_makes_way_for_another_tenant_s_requests(world: World, ports: Ports) -> None:
    fleet = Fleet(world)
    await fleet.stand("acme")
    await fleet.stand("globex")
    await fleet.start(operator=False)
    fleet.jobs.make_way()
    assert fleet.jobs.measuring("n1")
    fleet.membership.replicas_by_id["p-globex"].outstanding_requests = 1
    fleet.jobs.make_way()
    owner = world.catalog.tenant_by_name("acme")
    assert owner is not None
    status = fleet.jobs.show(owner, "m", 0).job
    assert "another tenant's model" in status.message
    assert not fleet.jobs.measuring("n1")
    assert fleet.sent[1] == fleet.sent[0].id


async def test_where_a_version_may_be_measured(world: World, ports: Ports) -> None:
    fleet = Fleet(world)
    with pytest.raises(NotReady, match="load it first"):
        await fleet.start()
    with pytest.raises(PermissionDenied, match="operator"):
        await fleet.start(operator=False, node="n1")
    with pytest.raises(NotFound, match="n2"):
        await fleet.start(node="n2")
    with pytest.raises(NotFound, match="no version 7"):
        await fleet.start(version=7)
    await fleet.stand("globex")
    quota = tenants_pb2.Quota(trust_policy=tenants_pb2.TRUST_POLICY_EXCLUSIVE)
    await ports.tenants.SetQuota(tenants_pb2.SetQuotaRequest(name="globex", quota=quota), metadata=ADMIN)
    with pytest.raises(PermissionDenied, match="own device"):
        await fleet.start(node="n1")


async def test_a_second_copy_must_fit(world: World, ports: Ports) -> None:
    fleet = Fleet(world, memory_bytes=300 << 20)
    await fleet.stand("acme")
    with pytest.raises(Unavailable, match="second copy"):
        await fleet.start()
