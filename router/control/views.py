"""What the control plane's services answer, made from the catalog and from what agents report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from partywall.domain.models import Version
from partywall.domain.placements import Decision, Placement
from partywall.domain.tenants import ApiKey, Tenant
from partywall.v1 import fleet_pb2, models_pb2, tenants_pb2
from partywall.wire import convert
from router.control.catalog import Catalog, ModelEntry
from router.control.explain import decision_view, own_names
from router.control.upload_rules import model_bytes_used

GONE = "(deleted)"


class FleetView(Protocol):
    """What is observed of agents; the membership satisfies it."""

    epoch: int
    generation: int

    def nodes(self) -> Sequence[fleet_pb2.Node]:
        """Agents that are connected."""
        ...

    def replicas(self) -> Sequence[fleet_pb2.Replica]:
        """Every wanted replica with its observed state."""
        ...


class NoFleet:
    """A fleet without agents: the simulated side."""

    def __init__(
        self, nodes: Sequence[fleet_pb2.Node] = (), replicas: Sequence[fleet_pb2.Replica] = (), epoch: int = 0
    ) -> None:
        self.epoch = epoch
        self.generation = 0
        self._nodes = nodes
        self._replicas = replicas

    def nodes(self) -> Sequence[fleet_pb2.Node]:
        return self._nodes

    def replicas(self) -> Sequence[fleet_pb2.Replica]:
        return self._replicas


def tenant_view(catalog: Catalog, tenant: Tenant, now: datetime) -> tenants_pb2.Tenant:
    return tenants_pb2.Tenant(
        id=tenant.id,
        name=tenant.name,
        state=tenants_pb2.TenantState.Value(f"TENANT_STATE_{tenant.state.name}"),
        quota=convert.quota_to_proto(tenant.quota),
        created_at=convert.timestamp(tenant.created_at),
        rev=tenant.rev,
        models=len(catalog.models(tenant.id)),
        model_bytes_used=model_bytes_used(catalog, tenant.id),
        live_keys=sum(key.live(now) for key in catalog.keys(tenant.id)),
    )


def key_view(key: ApiKey, tenant: Tenant) -> tenants_pb2.ApiKey:
    return tenants_pb2.ApiKey(
        id=key.id,
        tenant=tenant.name,
        created_at=convert.timestamp(key.created_at),
        expires_at=convert.timestamp(key.expires_at),
        revoked_at=convert.timestamp(key.revoked_at),
        last_used_at=convert.timestamp(key.last_used_at),
    )


class ModelViews:
    """Models as the wire has them, with the number of ready replicas at this moment."""

    def __init__(self, fleet: FleetView) -> None:
        self._ready = Counter(
            (one.tenant, one.model, one.version)
            for one in fleet.replicas()
            if one.state == fleet_pb2.REPLICA_STATE_READY
        )

    def model(self, entry: ModelEntry, tenant: Tenant) -> models_pb2.Model:
        model, live = entry.model, entry.live
        return models_pb2.Model(
            name=model.name,
            tenant=tenant.name,
            live_version=model.live,
            previous_version=model.previous,
            slo_ms=live.manifest.slo_ms if live is not None else 0,
            versions=[self._version(one, entry, tenant) for one in entry.versions.values()],
            rev=model.rev,
            serving_version=self._serving(entry, tenant),
            replicas=model.replicas,
        )

    def _serving(self, entry: ModelEntry, tenant: Tenant) -> int:
        """As the routing table has it: while the live version is not ready, the one before goes on serving."""
        for number in (entry.model.live, entry.model.previous):
            version = entry.versions.get(number)
            if version is not None and version.resident and self._ready[(tenant.name, entry.model.name, number)]:
                return number
        return 0

    def _version(self, version: Version, entry: ModelEntry, tenant: Tenant) -> models_pb2.Version:
        return models_pb2.Version(
            version=version.number,
            state=models_pb2.VersionState.Value(f"VERSION_STATE_{version.state.name}"),
            reason=version.reason,
            manifest=convert.manifest_to_proto(version.manifest),
            files=[convert.sealed_file_to_proto(file) for file in version.files],
            signature=convert.signature_to_proto(version.signature) if version.signature is not None else None,
            created_at=convert.timestamp(version.created_at),
            replicas_ready=self._ready[(tenant.name, entry.model.name, version.number)],
            memory_bytes=version.memory_bytes,
            load_seconds=version.load_seconds,
        )


def placement_view(catalog: Catalog, placement: Placement) -> fleet_pb2.Placement:
    tenant, entry = catalog.tenant(placement.tenant_id), catalog.model_by_id(placement.model_id)
    return fleet_pb2.Placement(
        id=placement.id,
        tenant=tenant.name if tenant is not None else GONE,
        model=entry.model.name if entry is not None else GONE,
        version=placement.version,
        node=placement.node,
        partition=convert.partition_to_proto(placement.partition),
        worker_id=placement.worker_id,
        generation=placement.generation,
        reason=placement.reason,
        replaces=placement.replaces,
        weight=placement.weight,
    )


def node_views(catalog: Catalog, fleet: FleetView) -> list[fleet_pb2.Node]:
    """Connected nodes as they report themselves, and known ones that are away."""
    here = {node.name: node for node in fleet.nodes()}
    for known in catalog.nodes():
        here.setdefault(
            known.name,
            fleet_pb2.Node(
                name=known.name,
                state=fleet_pb2.NODE_STATE_OFFLINE,
                incarnation=known.incarnation,
                devices=[convert.device_to_proto(device) for device in known.devices],
                last_seen_at=convert.timestamp(known.last_seen_at),
                version=known.version,
            ),
        )
    return [node for _, node in sorted(here.items())]


def explanation(
    catalog: Catalog, entry: ModelEntry, tenant: Tenant, fleet: FleetView, now: datetime
) -> models_pb2.ExplainModelResponse:
    """Why a model stands where it stands: its placements now, then the decisions that led here, newest first."""
    ready = ready_placements(fleet)
    mine = [one for one in catalog.placements() if one.model_id == entry.model.id]
    standing = [standing_decision(one, now, ready=one.id in ready) for one in mine]
    decisions = [*standing, *catalog.decisions(entry.model.id)]
    return models_pb2.ExplainModelResponse(
        model=ModelViews(fleet).model(entry, tenant),
        decisions=[decision_view(one, entry.model.name, named=own_names(catalog, tenant.id)) for one in decisions],
    )


def ready_placements(fleet: FleetView) -> set[str]:
    """Ids of the placements whose replicas serve."""
    return {one.placement_id for one in fleet.replicas() if one.state == fleet_pb2.REPLICA_STATE_READY}


def standing_decision(placement: Placement, now: datetime, *, ready: bool) -> Decision:
    """A placement as it stands, or is coming up, as a decision to show beside those that led to it."""
    where = f"{placement.node}, {placement.partition.kind.value} {placement.partition.id}"
    stands = "stands on" if ready else "is not ready yet on"
    return Decision(
        id=placement.id,
        kind="standing" if ready else "waiting",
        subject=placement.model_id,
        summary=f"version {placement.version} {stands} {where}: {placement.reason}",
        at=now,
        inputs={"worker": placement.worker_id, "memory_bytes": str(placement.memory_bytes)},
    )
