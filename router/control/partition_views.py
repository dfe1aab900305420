"""Partitions, attestations and events as the wire has them."""

from __future__ import annotations

from partywall.domain.events import Event
from partywall.domain.placements import Placement
from partywall.v1 import fleet_pb2
from partywall.wire import convert
from router.control.partitions import Outcome, Use, chooser, trust_lines
from router.control.scene import Scene


def use_view(scene: Scene, use: Use) -> fleet_pb2.PartitionUse:
    """A partition with who is in it and how far it is."""
    replaced = [p for p in map(scene.catalog.placement, (p.replaces for p in use.placements)) if p is not None]
    replicas = [scene.membership.replicas_by_id.get(p.id) for p in use.placements]
    walls = [r.status.wall for r in replicas if r is not None and r.status is not None and r.status.wall]
    return fleet_pb2.PartitionUse(
        partition=convert.partition_to_proto(use.partition),
        node=use.node,
        residents=[_resident(scene, p) for p in use.placements],
        placed_bytes=use.memory_bytes,
        state=_state(scene, use),
        replaces=replaced[0].partition.id if replaced else "",
        weight=min((p.weight for p in use.placements), default=1.0),
        wall=walls[0] if walls else "",
        placements=[p.id for p in use.placements],
        share_by=chooser(use).value,
    )


def outcome_view(scene: Scene, outcome: Outcome) -> fleet_pb2.ChangePartitionResponse:
    target = outcome.target
    return fleet_pb2.ChangePartitionResponse(
        before=use_view(scene, outcome.use),
        node=target.node,
        partition=convert.partition_to_proto(target.partition),
        reason=target.reason,
        needed_bytes=target.needed_bytes,
        free_bytes=max(0, target.free_bytes),
        trust=trust_lines(scene, target),
        considered=[
            fleet_pb2.PlaceConsidered(choice=a.choice, chosen=a.chosen, reason=a.reason) for a in target.alternatives
        ],
        decisions=[decision.id for decision in outcome.decisions],
        dry_run=not outcome.decisions,
        released=[_resident(scene, placement) for placement in outcome.released],
    )


def released_view(scene: Scene, use: Use) -> fleet_pb2.ChangePartitionResponse:
    """A partition whose size is the planner's again."""
    shown = use_view(scene, use)
    reason = "its size is the planner's to choose again"
    return fleet_pb2.ChangePartitionResponse(before=shown, node=use.node, partition=shown.partition, reason=reason)


def event_view(event: Event) -> fleet_pb2.Event:
    return fleet_pb2.Event(
        id=event.id,
        at=convert.timestamp(event.at),
        kind=event.kind,
        node=event.node,
        message=event.message,
        device_id=event.device_id,
        placement_id=event.placement_id,
        code=event.code,
    )


def _state(scene: Scene, use: Use) -> str:
    leaving = {p.replaces for p in scene.catalog.placements() if p.replaces}
    if any(p.replaces for p in use.placements):
        return "arriving"
    if any(p.id in leaving for p in use.placements):
        return "leaving"
    replicas = [scene.membership.replicas_by_id.get(p.id) for p in use.placements]
    return "standing" if all(r is not None and r.ready for r in replicas) else "waiting"


def _resident(scene: Scene, placement: Placement) -> str:
    tenant, entry = scene.catalog.tenant(placement.tenant_id), scene.catalog.model_by_id(placement.model_id)
    who = tenant.name if tenant is not None else placement.tenant_id
    what = entry.model.name if entry is not None else placement.model_id
    return f"{who}/{what}:{placement.version}"
