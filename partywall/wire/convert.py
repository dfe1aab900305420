"""Domain values to and from `partywall.v1` messages: the only place that knows both."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp

from partywall.domain import fleet, models, tenants
from partywall.errors import InvalidInput, PartywallError, error_from_reason
from partywall.v1 import agent_link_pb2, fleet_pb2, models_pb2, tenants_pb2

_QUOTA_FIELDS = ("requests_per_s", "burst", "max_in_flight", "model_bytes", "device_memory_bytes")


def timestamp(at: datetime | None) -> Timestamp | None:
    """None stays None: the field is then absent."""
    if at is None:
        return None
    out = Timestamp()
    out.FromDatetime(at.astimezone(UTC))
    return out


def quota_to_proto(quota: tenants.Quota) -> tenants_pb2.Quota:
    out = tenants_pb2.Quota(
        weight=quota.weight,
        trust_group=quota.trust_group,
        trust_policy=tenants_pb2.TrustPolicy.Value(f"TRUST_POLICY_{quota.trust_policy.name}"),
    )
    for name in _QUOTA_FIELDS:
        value = getattr(quota, name)
        if value is not None:
            setattr(out, name, value)
    return out


def quota_changes(message: tenants_pb2.Quota) -> dict[str, object]:
    """The fields a caller set, as arguments for `dataclasses.replace`; a limit of zero means "no limit"."""
    changes: dict[str, object] = {}
    for name in _QUOTA_FIELDS:
        if message.HasField(name):  # type: ignore[arg-type]
            changes[name] = getattr(message, name) or None
    if message.HasField("weight"):
        changes["weight"] = message.weight
    if message.HasField("trust_group"):
        changes["trust_group"] = message.trust_group
    if message.HasField("trust_policy"):
        # A number of a newer client is as little a policy as none.
        policy = {tenants_pb2.TrustPolicy.Value(f"TRUST_POLICY_{p.name}"): p for p in tenants.TrustPolicy}
        if message.trust_policy not in policy:
            raise InvalidInput(
                "quota.trust_policy must be exclusive, hardware, process or shared",
                fields={"field": "quota.trust_policy"},
            )
        changes["trust_policy"] = policy[message.trust_policy]
    return changes


def manifest_to_proto(manifest: models.Manifest) -> models_pb2.Manifest:
    return models_pb2.Manifest(
        engine=manifest.engine,
        options=dict(manifest.options),
        slo_ms=manifest.slo_ms,
        share_percent=manifest.share_percent,
        memory_bytes=manifest.memory_bytes,
        max_batch=manifest.max_batch,
        side_effects=manifest.side_effects,
        cold_start=manifest.cold_start,
    )


def manifest_from_proto(message: models_pb2.Manifest) -> models.Manifest:
    return models.Manifest(
        engine=message.engine,
        options=dict(message.options),
        slo_ms=message.slo_ms,
        share_percent=message.share_percent,
        memory_bytes=message.memory_bytes,
        max_batch=message.max_batch,
        side_effects=message.side_effects,
        cold_start=message.cold_start,
    )


def sealed_file_to_proto(file: models.SealedFile) -> models_pb2.SealedFile:
    return models_pb2.SealedFile(
        name=file.name,
        plain_size=file.plain_size,
        sealed_size=file.sealed_size,
        header_sha256=file.header_sha256,
        sealed_sha256=file.sealed_sha256,
    )


def sealed_file_from_proto(message: models_pb2.SealedFile) -> models.SealedFile:
    return models.SealedFile(
        name=message.name,
        plain_size=message.plain_size,
        sealed_size=message.sealed_size,
        header_sha256=message.header_sha256,
        sealed_sha256=message.sealed_sha256,
    )


def signature_to_proto(signature: models.Signature) -> models_pb2.Signature:
    return models_pb2.Signature(
        inputs=[_tensor_to_proto(t) for t in signature.inputs],
        outputs=[_tensor_to_proto(t) for t in signature.outputs],
        max_batch=signature.max_batch,
        open=signature.open,
    )


def signature_from_proto(message: models_pb2.Signature) -> models.Signature:
    return models.Signature(
        inputs=_tensors_from_proto(message.inputs),
        outputs=_tensors_from_proto(message.outputs),
        max_batch=message.max_batch,
        open=message.open,
    )


def device_to_proto(device: fleet.Device) -> fleet_pb2.Device:
    return fleet_pb2.Device(
        id=device.id,
        kind=fleet_pb2.DeviceKind.Value(f"DEVICE_KIND_{device.kind.name}"),
        name=device.name,
        memory_bytes=device.memory_bytes,
        compute_units=device.compute_units,
        cores=device.cores,
        kinds=[fleet_pb2.PartitionKind.Value(f"PARTITION_KIND_{kind.name}") for kind in device.kinds],
        fenced=device.fenced,
        observed=device.observed,
        instances=[
            fleet_pb2.MigInstance(
                profile_id=one.profile_id,
                start=one.start,
                memory_bytes=one.memory_bytes,
                compute_units=one.compute_units,
            )
            for one in device.instances
        ],
    )


def device_from_proto(message: fleet_pb2.Device) -> fleet.Device:
    return fleet.Device(
        id=message.id,
        kind=fleet.DeviceKind[fleet_pb2.DeviceKind.Name(message.kind).removeprefix("DEVICE_KIND_")],
        name=message.name,
        memory_bytes=message.memory_bytes,
        compute_units=message.compute_units,
        cores=tuple(message.cores),
        kinds=tuple(_partition_kind(kind) for kind in message.kinds),
        fenced=message.fenced,
        observed=message.observed,
        instances=tuple(
            fleet.Instance(one.profile_id, one.start, one.memory_bytes, one.compute_units) for one in message.instances
        ),
    )


def partition_to_proto(partition: fleet.Partition) -> fleet_pb2.Partition:
    return fleet_pb2.Partition(
        id=partition.id,
        kind=fleet_pb2.PartitionKind.Value(f"PARTITION_KIND_{partition.kind.name}"),
        device_id=partition.device_id,
        cores=partition.cores,
        share_percent=partition.share_percent,
        memory_bytes=partition.memory_bytes,
    )


def partition_from_proto(message: fleet_pb2.Partition) -> fleet.Partition:
    return fleet.Partition(
        id=message.id,
        kind=_partition_kind(message.kind),
        device_id=message.device_id,
        cores=tuple(message.cores),
        share_percent=message.share_percent,
        memory_bytes=message.memory_bytes,
    )


def observed_to_proto(status: fleet.ReplicaStatus) -> agent_link_pb2.Observed:
    return agent_link_pb2.Observed(
        placement_id=status.placement_id,
        state=fleet_pb2.ReplicaState.Value(f"REPLICA_STATE_{status.state.name}"),
        reason=status.reason,
        pid=status.pid,
        memory_bytes=status.memory_bytes,
        load_seconds=status.load_seconds,
        signature=signature_to_proto(status.signature) if status.signature is not None else None,
        wall=status.wall,
        restarts=status.restarts,
        permanent=status.permanent,
        wake_seconds=status.wake_seconds,
        wake_bytes=status.wake_bytes,
    )


def observed_from_proto(message: agent_link_pb2.Observed) -> fleet.ReplicaStatus:
    return fleet.ReplicaStatus(
        placement_id=message.placement_id,
        state=fleet.ReplicaState[fleet_pb2.ReplicaState.Name(message.state).removeprefix("REPLICA_STATE_")],
        reason=message.reason,
        pid=message.pid,
        memory_bytes=message.memory_bytes,
        load_seconds=message.load_seconds,
        signature=signature_from_proto(message.signature) if message.HasField("signature") else None,
        wall=message.wall,
        restarts=message.restarts,
        permanent=message.permanent,
        wake_seconds=message.wake_seconds,
        wake_bytes=message.wake_bytes,
    )


def error_to_proto(error: PartywallError) -> agent_link_pb2.CallError:
    retry_after_ms = 0 if error.retry_after_s is None else max(1, round(error.retry_after_s * 1e3))
    return agent_link_pb2.CallError(
        reason=error.reason.value, message=error.message, retry_after_ms=retry_after_ms, fields=error.fields
    )


def error_from_proto(message: agent_link_pb2.CallError) -> PartywallError:
    return error_from_reason(
        message.reason,
        message.message,
        fields=dict(message.fields),
        retry_after_s=message.retry_after_ms / 1e3 if message.retry_after_ms else None,
    )


def _partition_kind(value: fleet_pb2.PartitionKind.ValueType) -> fleet.PartitionKind:
    return fleet.PartitionKind[fleet_pb2.PartitionKind.Name(value).removeprefix("PARTITION_KIND_")]


def _tensor_to_proto(tensor: models.TensorSpec) -> models_pb2.TensorSpec:
    return models_pb2.TensorSpec(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)


def _tensors_from_proto(messages: Iterable[models_pb2.TensorSpec]) -> tuple[models.TensorSpec, ...]:
    return tuple(models.TensorSpec(t.name, t.datatype, tuple(t.shape)) for t in messages)
