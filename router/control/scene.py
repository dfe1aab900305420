"""The catalog and the fleet side by side, as every pass of the reconcile loop sees them."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Protocol

from isolation.trust import Resident
from partywall.clock import Clock
from partywall.domain.fleet import Device, DeviceKind, ReplicaState
from partywall.domain.models import Version, VersionState
from partywall.domain.placements import Alternative, Decision, Placement, ShareBy
from partywall.domain.tenants import Tenant
from router.control.catalog import Catalog, ModelEntry
from router.control.membership import Membership
from router.policy.placement import Chosen, NodeView, NoPlace, Operator, Standing, Want, place
from router.policy.sharing_words import Bounds, Work

RUNTIME_BYTES = 256 << 20
"""Host or device memory of a worker beside the weights, until it has been measured."""


class Knowledge(Bounds, Protocol):
    """What is known of neighbours; `router.control.neighbourhood.Neighbourhood` is the real side."""

    def work(self, placement_id: str, objective_ms: int) -> Work:
        """What a replica asks of its device, by its traffic; an empty id: nothing is known of it."""
        ...

    def seen(self, placement_id: str, objective_ms: int) -> Work:
        """As `work`, with no more than was seen of it: what was never looked at is idle here."""
        ...

    def observed(self, placement_id: str) -> float:
        """The slowdown that live traffic shows beside busy neighbours; 0.0 where it shows none."""
        ...


@dataclass(frozen=True, slots=True)
class Scene:
    """What passes read. Writes go through `catalog.transaction()`. Without `knowledge` neighbours cost nothing."""

    catalog: Catalog
    membership: Membership
    clock: Clock
    operator: Operator
    knowledge: Knowledge | None = None

    def place(self, want: Want, leaving: Collection[str] = ()) -> Chosen | NoPlace:
        """Where a replica would go now."""
        nodes, standings = self.nodes(), self.standings()
        return place(want, nodes, standings, self.operator, new_id, leaving=leaving, bounds=self.knowledge)

    def want(self, tenant: Tenant, entry: ModelEntry, version: Version, like: Placement | None = None) -> Want:
        """What a replica of a version needs; its traffic is that of the replica `like`, and its share where that one's
        was chosen for it.
        """
        want = replace(want_of(tenant, entry, version), work=self.work(like.id if like else "", version))
        chosen = like is not None and like.share_by is not ShareBy.DEFAULT
        return replace(want, share_percent=like.partition.share_percent) if chosen and like is not None else want

    def work(self, placement_id: str, version: Version | None) -> Work:
        """What a placement asks of its device."""
        objective_ms = version.manifest.slo_ms if version is not None else 0
        if self.knowledge is None:
            return Work(objective_s=objective_ms / 1e3)
        return self.knowledge.work(placement_id, objective_ms)

    def version(self, placement: Placement) -> Version | None:
        entry = self.catalog.model_by_id(placement.model_id)
        return entry.versions.get(placement.version) if entry else None

    def nodes(self) -> list[NodeView]:
        """The live nodes."""
        return [NodeView(s.node, self.membership.devices(s.node)) for s in self.membership.sessions()]

    def standings(self) -> list[Standing]:
        """All placements with their owners and the work that waits for them. Parked ones give way and do not count, as
        soon as their weights have left their device."""
        return [s for p in self.catalog.placements() if not self.off_device(p) and (s := self.standing(p)) is not None]

    def off_device(self, placement: Placement) -> bool:
        """Whether a placement is parked and holds no device memory worth speaking of; on a CPU it gives way at once."""
        if not placement.parked:
            return False
        device = self.device(placement)
        if device is None or device.kind is not DeviceKind.GPU:
            return True
        runtime = self.membership.replicas_by_id.get(placement.id)
        status = runtime.status if runtime is not None else None
        return status is not None and status.state is ReplicaState.STOPPED

    def device(self, placement: Placement) -> Device | None:
        """Where a placement stands; None while its node is away."""
        devices = self.membership.devices(placement.node)
        return next((d for d in devices if d.id == placement.partition.device_id), None)

    def standing(self, placement: Placement) -> Standing | None:
        tenant = self.catalog.tenant(placement.tenant_id)
        if tenant is None:
            return None
        runtime = self.membership.replicas_by_id.get(placement.id)
        backlog_s = 0.0
        if runtime is not None:
            backlog_s = runtime.shared_backlog_s + runtime.service.mean_s(max(1, runtime.outstanding_rows))
        work = self.work(placement.id, self.version(placement))
        return Standing(placement, resident(tenant), backlog_s, work)

    def decision(
        self,
        entry: ModelEntry,
        version: Version,
        kind: str,
        summary: str,
        alternatives: tuple[Alternative, ...] = (),
        inputs: Mapping[str, str] = MappingProxyType({}),
    ) -> Decision:
        """A decision about one version, with the inputs every placement starts from."""
        return Decision(
            id=new_id("decision"),
            kind=kind,
            subject=entry.model.id,
            summary=f"version {version.number} {summary}",
            at=self.clock.now(),
            alternatives=alternatives,
            inputs={
                "memory_estimate_bytes": str(memory_estimate(version)),
                "weights_bytes": str(version.plain_bytes),
                "share_percent": str(version.manifest.share_percent),
                **inputs,
            },
        )


def want_of(tenant: Tenant, entry: ModelEntry, version: Version) -> Want:
    """What a replica of a version needs."""
    return Want(
        resident=resident(tenant),
        model_id=entry.model.id,
        version=version.number,
        memory_bytes=memory_estimate(version),
        weights_bytes=version.plain_bytes,
        share_percent=version.manifest.share_percent,
        memory_quota_bytes=tenant.quota.device_memory_bytes,
    )


def hopeless(version: Version) -> bool:
    """Failed for good: another placement cannot help. A push of a corrected version can."""
    return version.state is VersionState.FAILED


def memory_estimate(version: Version) -> int:
    declared = version.manifest.memory_bytes or version.memory_bytes
    return declared or int(version.plain_bytes * 1.2) + RUNTIME_BYTES


def resident(tenant: Tenant) -> Resident:
    return Resident(tenant.id, tenant.quota.trust_policy, tenant.quota.trust_group)


def new_id(prefix: str) -> str:
    return f"{prefix}-{secrets.token_hex(6)}"
