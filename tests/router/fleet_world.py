"""A leading router without ports: catalog, membership and reconcile loop on a virtual clock, with agents that obey."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from isolation.vault.keys import MemoryKeyProvider
from partywall.clock import VirtualClock
from partywall.domain.fleet import Device, DeviceKind, ReplicaState, ReplicaStatus
from partywall.domain.models import Manifest, Model, Signature, Version, VersionState
from partywall.domain.placements import Placement
from partywall.domain.tenants import Quota, Tenant, TrustPolicy
from partywall.v1 import agent_link_pb2 as link
from partywall.wire import convert
from router.control.catalog import Catalog
from router.control.membership import Membership
from router.control.memory import MemoryStore
from router.control.reconcile import Reconciler
from router.control.records import DataKeyRecord
from router.control.scene import Knowledge
from router.gateway.link import AgentSession
from router.gateway.replicas import Route, build_routes
from router.policy.placement import Operator

GIB = 1 << 30


def cpu(cores: int = 4, memory: int = 8 * GIB, name: str = "cpu") -> Device:
    return Device(name, DeviceKind.CPU, "CPU", memory, cores, tuple(range(cores)))


class Names:
    def tenant_name(self, tenant_id: str) -> str:
        return tenant_id

    def model_name(self, model_id: str) -> str:
        return model_id


@dataclass
class Agent:
    """Reports every placement of its node as ready, but those that `says` names otherwise."""

    node: str
    devices: Sequence[Device]
    session: AgentSession
    says: dict[str, ReplicaStatus] = field(default_factory=dict)
    fail_new: str = ""
    """A reason: whatever is placed here from now on fails with it, for good."""
    known: set[str] = field(default_factory=set)
    busy: set[str] = field(default_factory=set)
    """Placements where somebody has a request, through whichever process of the router."""

    def report(self, placements: Sequence[Placement], membership: Membership) -> None:
        frame = link.AgentFrame()
        for one in placements:
            if one.node != self.node:
                continue
            if self.fail_new and one.id not in self.known:
                self.says.setdefault(
                    one.id, ReplicaStatus(one.id, ReplicaState.FAILED, reason=self.fail_new, permanent=True)
                )
            self.known.add(one.id)
            ready = ReplicaStatus(
                one.id, ReplicaState.READY, pid=7, memory_bytes=1 << 20, signature=Signature(open=True), wall="stands"
            )
            frame.observed.append(convert.observed_to_proto(self.says.get(one.id, ready)))
            if (replica := membership.replicas_by_id.get(one.id)) is not None:
                busy = one.id in self.busy
                frame.loads.add(handle=replica.handle, running_rows=int(busy), quiet_ms=0 if busy else 3_600_000)
        membership.observe(self.session, frame)


class FleetWorld:
    """One installation. `passes` runs the reconcile loop, moving the clock between passes."""

    swap_bytes = 0
    knowledge: Knowledge | None = None

    def __init__(self, operator: Operator | None = None) -> None:
        self.store = MemoryStore()
        self.clock = VirtualClock()
        self.operator = operator or Operator()
        self.agents: dict[str, Agent] = {}
        self.keys = MemoryKeyProvider()

    async def start(self) -> FleetWorld:
        """May be called again, as a restart of the router does: only the store stays."""
        self.catalog = Catalog(self.store)
        await self.catalog.open()
        self.membership = Membership(self.clock, Names(), 3.0)
        self.membership.generation = max((p.generation for p in self.catalog.placements()), default=0)
        self.reconciler = Reconciler(
            self.catalog,
            self.membership,
            self.keys,
            self.clock,
            self.operator,
            swap_bytes=self.swap_bytes,
            knowledge=self.knowledge,
        )
        for agent in list(self.agents.values()):
            self.join(agent.node, *agent.devices, fail_new=agent.fail_new)
        return self

    def join(self, node: str, *devices: Device, fail_new: str = "") -> Agent:
        hello = link.Hello(
            node=node, incarnation="i", version="0", devices=[convert.device_to_proto(d) for d in devices]
        )
        session = AgentSession(hello, self.clock)
        known = self.agents[node].known if node in self.agents else set()
        says = self.agents[node].says if node in self.agents else {}
        self.agents[node] = Agent(node, devices, session, says, fail_new, known)
        self.membership.attach(session)
        return self.agents[node]

    def leave(self, node: str) -> None:
        self.membership.detach(self.agents.pop(node).session)

    async def model(self, tenant: str, name: str, share: int = 0, *, slo_ms: int = 50, **quota: Any) -> Version:
        """A resident version of a model; makes the tenant where it is new."""
        now = self.clock.now()
        async with self.catalog.transaction() as tx:
            if self.catalog.tenant(tenant) is None:
                await tx.insert(Tenant(tenant, tenant, now, quota=Quota(**quota)))
            await tx.insert(DataKeyRecord(f"key-{name}", tenant, f"art-{name}", b"", now))
            await tx.insert(Model(name, tenant, name, live=1))
            manifest = Manifest("identity", {}, slo_ms=slo_ms, share_percent=share, memory_bytes=GIB)
            made = Version(
                name, 1, f"art-{name}", manifest, (), f"key-{name}", now, VersionState.PENDING, resident=True
            )
            await tx.insert(made)
        return made

    async def change(self, tenant: str, policy: TrustPolicy) -> None:
        known = self.catalog.tenant(tenant)
        assert known is not None
        async with self.catalog.transaction() as tx:
            await tx.update(replace(known, quota=replace(known.quota, trust_policy=policy)))

    async def passes(self, count: int = 1, each_s: float = 0.3) -> None:
        for _ in range(count):
            await self.reconciler.reconcile()
            for agent in self.agents.values():
                agent.report(self.catalog.placements(), self.membership)
            self.clock.advance(each_s)

    def placements(self, model: str) -> list[Placement]:
        return sorted((p for p in self.catalog.placements() if p.model_id == model), key=lambda p: p.generation)

    def placement(self, model: str) -> Placement:
        (one,) = self.placements(model)
        return one

    def route(self, model: str) -> Route:
        routes = build_routes(self.catalog.models(), self.membership.replica_runtimes())
        live = next(route for (_, name), route in routes.items() if name == model).live
        assert live is not None
        return live

    def serving(self, model: str, turns: int = 100) -> dict[str, int]:
        """How often each placement is offered one of so many requests."""
        route = self.route(model)
        counts: dict[str, int] = {}
        for _ in range(turns):
            for one in route.candidates():
                counts[one.placement.id] = counts.get(one.placement.id, 0) + 1
        return counts
