"""Answers of the server as rows with stable snake_case keys: what `-o json` prints."""

from __future__ import annotations

from datetime import UTC
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from partywall.client.views import ModelInfo, VersionInfo
from partywall.domain.models import Signature, TensorSpec
from partywall.v1 import fleet_pb2, models_pb2, tenants_pb2

_LIMITS = ("requests_per_s", "burst", "max_in_flight", "model_bytes", "device_memory_bytes")


def time_text(at: Timestamp) -> str:
    """RFC 3339 in UTC, whole seconds."""
    return at.ToDatetime(tzinfo=UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def optional_time(message: Any, field: str) -> str | None:
    return time_text(getattr(message, field)) if message.HasField(field) else None


def enum_text(enum: Any, value: int, prefix: str) -> str:
    """`TENANT_STATE_ACTIVE` as `active`; a value of a newer server as its number."""
    if value not in enum.values():
        return str(value)
    name: str = enum.Name(value)
    return name.removeprefix(prefix).lower()


def quota_row(quota: tenants_pb2.Quota) -> dict[str, Any]:
    row: dict[str, Any] = {name: getattr(quota, name) if quota.HasField(name) else None for name in _LIMITS}  # type: ignore[arg-type]
    row["weight"] = quota.weight
    row["trust_group"] = quota.trust_group
    row["trust_policy"] = enum_text(tenants_pb2.TrustPolicy, quota.trust_policy, "TRUST_POLICY_")
    return row


def tenant_row(tenant: tenants_pb2.Tenant) -> dict[str, Any]:
    return {
        "name": tenant.name,
        "id": tenant.id,
        "state": enum_text(tenants_pb2.TenantState, tenant.state, "TENANT_STATE_"),
        "models": tenant.models,
        "model_bytes_used": tenant.model_bytes_used,
        "live_keys": tenant.live_keys,
        "created_at": time_text(tenant.created_at),
        "quota": quota_row(tenant.quota),
    }


def key_row(key: tenants_pb2.ApiKey) -> dict[str, Any]:
    return {
        "id": key.id,
        "tenant": key.tenant,
        "created_at": time_text(key.created_at),
        "expires_at": optional_time(key, "expires_at"),
        "revoked_at": optional_time(key, "revoked_at"),
        "last_used_at": optional_time(key, "last_used_at"),
    }


def model_row(model: ModelInfo) -> dict[str, Any]:
    live = model.version(model.live_version)
    newest = max(model.versions, key=lambda v: v.number, default=None)
    shown = live or newest
    return {
        "name": model.name,
        "tenant": model.tenant,
        "live_version": model.live_version or None,
        "previous_version": model.previous_version or None,
        "serving_version": model.serving_version or None,
        "replicas": model.replicas,
        "slo_ms": model.slo_ms,
        "engine": shown.manifest.engine if shown else None,
        "state": shown.state.value if shown else None,
        "replicas_ready": shown.replicas_ready if shown else 0,
        "reason": shown.reason if shown else "",
        "versions": [version_row(version) for version in model.versions],
    }


def version_row(version: VersionInfo) -> dict[str, Any]:
    return {
        "version": version.number,
        "state": version.state.value,
        "reason": version.reason,
        "engine": version.manifest.engine,
        "options": dict(version.manifest.options),
        "slo_ms": version.manifest.slo_ms,
        "share_percent": version.manifest.share_percent or None,
        "max_batch": version.manifest.max_batch or None,
        "bytes": sum(file.plain_size for file in version.files),
        "files": [file.name for file in version.files],
        "replicas_ready": version.replicas_ready,
        "memory_bytes": version.memory_bytes,
        "load_seconds": round(version.load_seconds, 3),
        "created_at": version.created_at.isoformat(timespec="seconds").replace("+00:00", "Z"),
        "inputs": _tensors(version.signature, "inputs"),
        "outputs": _tensors(version.signature, "outputs"),
    }


def _tensors(signature: Signature | None, side: str) -> list[dict[str, Any]]:
    tensors: tuple[TensorSpec, ...] = getattr(signature, side) if signature is not None else ()
    return [{"name": t.name, "datatype": t.datatype, "shape": list(t.shape)} for t in tensors]


def slowdown_row(slowdown: models_pb2.Slowdown) -> dict[str, Any]:
    """Service time beside neighbours / alone; null where nothing is known."""
    return {
        "version": slowdown.version,
        "node": slowdown.node,
        "share_percent": slowdown.share_percent,
        "neighbours": list(slowdown.neighbours),
        "predicted": round(slowdown.predicted, 4),
        "observed": round(slowdown.observed, 4) or None,
        "bound": round(slowdown.bound, 4) or None,
        "basis": slowdown.basis,
        "wants_profile": slowdown.wants_profile,
    }


def partition_row(partition: fleet_pb2.Partition) -> dict[str, Any]:
    return {
        "id": partition.id,
        "kind": enum_text(fleet_pb2.PartitionKind, partition.kind, "PARTITION_KIND_"),
        "device": partition.device_id,
        "cores": list(partition.cores),
        "share_percent": partition.share_percent,
        "memory_bytes": partition.memory_bytes,
    }


def fleet_record(fleet: fleet_pb2.GetFleetResponse) -> dict[str, Any]:
    return {
        "epoch": fleet.epoch,
        "generation": fleet.generation,
        "nodes": [_node_row(node) for node in fleet.nodes],
        "placements": [_placement_row(placement) for placement in fleet.placements],
        "replicas": [_replica_row(replica) for replica in fleet.replicas],
    }


def _node_row(node: fleet_pb2.Node) -> dict[str, Any]:
    return {
        "name": node.name,
        "state": enum_text(fleet_pb2.NodeState, node.state, "NODE_STATE_"),
        "version": node.version,
        "incarnation": node.incarnation,
        "last_seen_at": optional_time(node, "last_seen_at"),
        "devices": [
            {
                "id": device.id,
                "kind": enum_text(fleet_pb2.DeviceKind, device.kind, "DEVICE_KIND_"),
                "name": device.name,
                "memory_bytes": device.memory_bytes,
                "compute_units": device.compute_units,
                "cores": list(device.cores),
                "partitions": [enum_text(fleet_pb2.PartitionKind, k, "PARTITION_KIND_") for k in device.kinds],
                "fenced": device.fenced or None,
                "observed": device.observed or None,
            }
            for device in node.devices
        ],
    }


def _placement_row(placement: fleet_pb2.Placement) -> dict[str, Any]:
    return {
        "id": placement.id,
        "tenant": placement.tenant,
        "model": placement.model,
        "version": placement.version,
        "node": placement.node,
        "worker_id": placement.worker_id,
        "partition": partition_row(placement.partition),
        "generation": placement.generation,
        "reason": placement.reason,
        "replaces": placement.replaces or None,
        "weight": round(placement.weight, 3),
    }


def _replica_row(replica: fleet_pb2.Replica) -> dict[str, Any]:
    return {
        "placement_id": replica.placement_id,
        "tenant": replica.tenant,
        "model": replica.model,
        "version": replica.version,
        "node": replica.node,
        "worker_id": replica.worker_id,
        "pid": replica.pid,
        "partition": partition_row(replica.partition),
        "state": enum_text(fleet_pb2.ReplicaState, replica.state, "REPLICA_STATE_"),
        "reason": replica.reason,
        "memory_bytes": replica.memory_bytes,
        "load_seconds": round(replica.load_seconds, 3),
        "wake_seconds": round(replica.wake_seconds, 4),
        "wake_bytes": replica.wake_bytes,
        "queued": replica.queued,
        "in_flight": replica.in_flight,
        "wall": replica.wall,
        "restarts": replica.restarts,
    }


def request_row(trace: models_pb2.RequestTrace) -> dict[str, Any]:
    """One request on its road; milliseconds."""
    times = ("budget_ms", "predicted_ms", "actual_ms", "queue_ms", "service_ms")
    return {
        "id": trace.id,
        "at": time_text(trace.at),
        "model": trace.model,
        "version": trace.version,
        "outcome": trace.outcome,
        "message": trace.message,
        "replica": trace.replica,
        "rows": trace.rows,
        "slo_ms": trace.slo_ms,
        **{name: round(getattr(trace, name), 3) for name in times},
        "batch_requests": trace.batch_requests,
        "batch_rows": trace.batch_rows,
        "attempts": trace.attempts,
        "hedged": trace.hedged,
    }


def decision_row(decision: models_pb2.Decision) -> dict[str, Any]:
    return {
        **({"tenant": decision.tenant} if decision.tenant else {}),
        "id": decision.id,
        "at": time_text(decision.at),
        "kind": decision.kind,
        "subject": decision.subject,
        "summary": decision.summary,
        "inputs": dict(decision.inputs),
        "alternatives": [
            {
                "choice": a.choice,
                "chosen": a.chosen,
                "reason": a.reason,
                "predicted_finish_ms": round(a.predicted_finish_ms, 3),
            }
            for a in decision.alternatives
        ],
    }
