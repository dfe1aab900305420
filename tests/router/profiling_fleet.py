"""A node whose agent is asked for profiles, with the jobs and the book of the control plane behind it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from control_world import World

from partywall.domain.fleet import Partition, PartitionKind
from partywall.domain.models import Version
from partywall.domain.placements import Placement
from partywall.domain.profiles import ProbePoint, ProbeSetting, Profile, Resource
from partywall.domain.tenants import TrustPolicy
from partywall.v1 import agent_link_pb2 as link
from partywall.v1 import fleet_pb2
from partywall.v1 import profiles_pb2 as pb
from partywall.wire.profiles import profile_to_proto
from router.control.membership import Membership
from router.control.profile_book import ProfileBook
from router.control.profile_target import Targets
from router.control.profiles import ProfileJobs
from router.faces import Names
from router.gateway.link import AgentSession

POINT = ProbePoint(ProbeSetting(Resource.LLC), 50, 50)
PROFILE = Profile("m", "CPU", {50: 2.0}, {50: 2.0}, {POINT: 1.2}, {POINT: 1.5}, solo_at_ms={(1, 50): 2.0})


class Fleet:
    """One node with a CPU; what is sent to its agent is kept."""

    def __init__(self, world: World, memory_bytes: int = 1 << 33) -> None:
        self.world = world
        self.membership = Membership(world.clock, Names(world.catalog), 3.0)
        device = fleet_pb2.Device(id="cpu", kind=fleet_pb2.DEVICE_KIND_CPU, name="CPU", memory_bytes=memory_bytes)
        device.compute_units, device.cores[:] = 2, [0, 1]
        self.session = AgentSession(link.Hello(node="n1", devices=[device]), world.clock)
        self.membership.attach(self.session)
        self.sent: list[Any] = []
        self.session.send_profile_job = self.sent.append  # type: ignore[method-assign]
        self.session.cancel_profile_job = self.sent.append  # type: ignore[method-assign]
        self.book = ProfileBook(world.control)
        targets = Targets(world.catalog, self.membership, TrustPolicy.SHARED)
        self.jobs = ProfileJobs(world.control, self.book, targets)

    async def stand(self, tenant: str) -> None:
        owner = self.world.catalog.tenant_by_name(tenant)
        assert owner is not None
        version = live(self.world, tenant)
        partition = Partition("p", PartitionKind.CPUSET, "cpu", (0,), 50)
        placement = Placement(f"p-{tenant}", owner.id, version.model_id, 1, "n1", partition, "w", 1 << 28, 1)
        async with self.world.catalog.transaction() as tx:
            await tx.insert(placement)
        self.membership.set_placements(self.world.catalog.placements())

    async def start(self, tenant: str = "acme", *, operator: bool = True, **request: Any) -> pb.GetProfileResponse:
        owner = self.world.catalog.tenant_by_name(tenant)
        assert owner is not None
        return await self.jobs.start(owner, pb.ProfileModelRequest(name="m", **request), operator=operator)

    async def tell(self, **progress: Any) -> pb.GetProfileResponse:
        """One message of the agent, taken by the background task."""
        owner = self.world.catalog.tenant_by_name("acme")
        assert owner is not None
        self.jobs.on_progress("n1", link.ProfileProgress(id=self.sent[0].id, **progress))
        task = asyncio.create_task(self.jobs.run())
        for _ in range(200):
            await asyncio.sleep(0.001)
            if self.jobs._arrived.empty():
                break
        await asyncio.sleep(0.05)
        task.cancel()
        return self.jobs.show(owner, "m", 0)


def live(world: World, tenant: str) -> Version:
    owner = world.catalog.tenant_by_name(tenant)
    assert owner is not None
    entry = world.catalog.model(owner.id, "m")
    assert entry is not None
    assert entry.live is not None or entry.versions
    return entry.versions[1]


def record(*, done: bool = True) -> pb.ProfileRecord:
    runs = [pb.MeasuredRun(key="@50x1", values={"alone_ms": 2.0})]
    found = pb.ProfileRecord(settings="quick", device_type="CPU x2", runs=runs)
    if done:
        found.profile.CopyFrom(profile_to_proto(replace(PROFILE, device_type="CPU x2")))
    return found
