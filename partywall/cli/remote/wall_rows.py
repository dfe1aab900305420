"""Partitions, attestations and events as rows with stable snake_case keys."""

from __future__ import annotations

from typing import Any

from partywall.cli.remote.rows import partition_row, time_text
from partywall.v1 import fleet_pb2


def partition_use_row(use: fleet_pb2.PartitionUse) -> dict[str, Any]:
    return {
        **partition_row(use.partition),
        "node": use.node,
        "state": use.state,
        "replaces": use.replaces or None,
        "weight": round(use.weight, 3),
        "residents": list(use.residents),
        "placements": list(use.placements),
        "placed_bytes": use.placed_bytes,
        "wall": use.wall,
        "share_by": use.share_by or None,
    }


def change_record(answer: fleet_pb2.ChangePartitionResponse) -> dict[str, Any]:
    return {
        "from": partition_use_row(answer.before),
        "to": {**partition_row(answer.partition), "node": answer.node},
        "reason": answer.reason,
        "needed_bytes": answer.needed_bytes,
        "free_bytes": answer.free_bytes,
        "trust": list(answer.trust),
        "considered": [{"choice": c.choice, "chosen": c.chosen, "reason": c.reason} for c in answer.considered],
        "decisions": list(answer.decisions),
        "released": list(answer.released),
        "dry_run": answer.dry_run,
    }


def event_row(event: fleet_pb2.Event) -> dict[str, Any]:
    return {
        "id": event.id,
        "at": time_text(event.at),
        "kind": event.kind,
        "node": event.node,
        "device": event.device_id or None,
        "placement_id": event.placement_id or None,
        "code": event.code or None,
        "message": event.message,
    }


def attestation_row(one: fleet_pb2.ReplicaAttestation) -> dict[str, Any]:
    return {
        "placement_id": one.placement_id,
        "tenant": one.tenant,
        "model": one.model,
        "version": one.version,
        "node": one.node,
        "pid": one.pid,
        "partition": partition_row(one.partition),
        "ok": one.ok,
        "wall": one.wall,
        "reasons": list(one.reasons),
        "checks": [{"what": c.what, "expected": c.expected, "seen": c.seen, "ok": c.ok} for c in one.checks],
    }
