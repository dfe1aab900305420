"""Where a version is measured, and whether it may be measured there now."""

from __future__ import annotations

from dataclasses import dataclass

from isolation.trust import Refusal, Resident, Wall, clear
from partywall.domain.fleet import Device, DeviceKind, Partition, PartitionKind
from partywall.domain.models import Version
from partywall.domain.tenants import Tenant, TrustPolicy
from partywall.errors import NotFound, NotReady, PermissionDenied, Reason, Unavailable
from router.control.catalog import Catalog, ModelEntry
from router.control.membership import Membership
from router.gateway.link import AgentSession
from router.gateway.replicas import Replica

QUIET_S = 2.0
"""A replica that finished a batch this recently keeps its device busy."""
_RUNTIME_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class Target:
    """An agent's device; `partition` says which kind of partition and how much memory the version gets there."""

    session: AgentSession
    device: Device
    partition: Partition


@dataclass(frozen=True, slots=True)
class Targets:
    """Chooses and checks; `floor` is the operator's floor of trust."""

    catalog: Catalog
    membership: Membership
    floor: TrustPolicy

    def choose(self, tenant: Tenant, entry: ModelEntry, version: Version, node: str) -> Target:
        """On `node`, or where the version stands.

        Raises:
            NotReady: It stands nowhere and no node was named.
            NotFound: No such node is here.
            PermissionDenied: Trust forbids the tenant to stand there.
            Unavailable: NO_PLACE, its memory does not fit beside what stands there.
        """
        standing = [p for p in self.catalog.placements() if (p.model_id, p.version) == (entry.model.id, version.number)]
        own = next((p for p in standing if node in ("", p.node)), None)
        if own is None and not node:
            raise NotReady(
                f"version {version.number} of {entry.model.name!r} stands nowhere; load it first "
                f"(partywall models load {entry.model.name}), or as the operator name a node (--node)",
                reason=Reason.MODEL_NOT_READY,
            )
        name = own.node if own is not None else node
        session = self.membership.session(name)
        devices = {d.id: d for d in self.membership.devices(name)}
        if session is None or not devices:
            raise NotFound(f"node {name!r} is not here; see `partywall fleet show`", fields={"field": "node"})
        device = devices.get(own.partition.device_id) if own is not None else next(iter(devices.values()))
        if device is None:
            raise NotFound(f"node {name!r} has lost the device that the version stood on; see `partywall fleet show`")
        if own is None:
            self._check_trust(tenant, name, device)
        memory_bytes = own.memory_bytes if own is not None else _memory_estimate(version)
        self._check_memory(name, device, memory_bytes)
        kind = PartitionKind.CPUSET if device.kind is DeviceKind.CPU else PartitionKind.WHOLE
        return Target(session, device, Partition("profile", kind, device.id, device.cores, 100, memory_bytes))

    def busy(
        self, target: Target, now_s: float, tenant: Tenant, *, operator: bool = False, others_only: bool = False
    ) -> str:
        """Who keeps the device busy; empty: nobody. A tenant is told its own models' names only.

        `others_only` leaves out what is the tenant's own.
        """
        names: list[str] = []
        for replica in self._residents(target):
            if not replica.served_lately(now_s, QUIET_S):
                continue
            if others_only and replica.placement.tenant_id == tenant.id:
                continue
            entry = self.catalog.model_by_id(replica.placement.model_id)
            owner = self.catalog.tenant(replica.placement.tenant_id)
            if entry is None or owner is None:
                continue
            if operator:
                names.append(f"{owner.name}/{entry.model.name}")
            else:
                names.append(entry.model.name if owner.id == tenant.id else "another tenant's model")
        return ", ".join(sorted(set(names)))

    def _residents(self, target: Target) -> list[Replica]:
        place = (target.session.node, target.device.id)
        replicas = self.membership.replica_runtimes()
        return [r for r in replicas if (r.placement.node, r.placement.partition.device_id) == place]

    def _check_trust(self, tenant: Tenant, node: str, device: Device) -> None:
        ids = {
            p.tenant_id
            for p in self.catalog.placements()
            if (p.node, p.partition.device_id) == (node, device.id) and p.tenant_id != tenant.id
        }
        others = [_resident(t) for i in ids if (t := self.catalog.tenant(i)) is not None]
        answer = clear(_resident(tenant), others, self.floor, Wall.SAME_DEVICE)
        if isinstance(answer, Refusal):
            raise PermissionDenied(f"not on node {node!r}: {answer.reason}; choose another node (--node)")

    def _check_memory(self, node: str, device: Device, memory_bytes: int) -> None:
        taken = sum(
            p.memory_bytes for p in self.catalog.placements() if (p.node, p.partition.device_id) == (node, device.id)
        )
        if taken + memory_bytes > device.memory_bytes:
            raise Unavailable(
                f"a second copy of the version needs {memory_bytes >> 20} MiB and the device has "
                f"{max(device.memory_bytes - taken, 0) >> 20} MiB left; unload something, or profile on another node",
                reason=Reason.NO_PLACE,
            )


def _memory_estimate(version: Version) -> int:
    declared = version.manifest.memory_bytes or version.memory_bytes
    return declared or int(version.plain_bytes * 1.2) + _RUNTIME_BYTES


def _resident(tenant: Tenant) -> Resident:
    return Resident(tenant.id, tenant.quota.trust_policy, tenant.quota.trust_group)
