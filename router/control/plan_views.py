"""The live planner's steps as the wire has them."""

from __future__ import annotations

from collections.abc import Sequence

from partywall.domain.placements import Placement
from partywall.v1 import fleet_pb2, models_pb2
from router.control.catalog import Catalog
from router.control.explain import everybodys
from router.control.plan_steps import Step, alternatives, inputs
from router.control.regrouping import inputs_of
from router.control.resharing import alternatives_of
from router.control.resharing import inputs_of as share_inputs
from router.control.views import GONE
from router.policy.choosing import with_names
from router.policy.regroup import Move
from router.policy.reshare import Recut


def preview_view(
    catalog: Catalog,
    steps: Sequence[Step],
    wishes: Sequence[Move] = (),
    recuts: Sequence[Recut] = (),
    *,
    enabled: bool,
) -> fleet_pb2.PreviewPlanResponse:
    """A preview of the whole plan: replicas of each model, the moves apart and together, the shares cut anew."""
    shown = [_step(catalog, step) for step in steps]
    moves = [_move(catalog, move) for move in wishes]
    return fleet_pb2.PreviewPlanResponse(
        enabled=enabled,
        steps=[*shown, *moves, *(one for recut in recuts for one in _recut(catalog, recut))],
        replicas_now=sum(one.replicas_now for one in shown),
        replicas_planned=sum(one.replicas_planned for one in shown),
    )


def _move(catalog: Catalog, move: Move) -> fleet_pb2.PlanStep:
    placement, target = move.placement, move.target
    tenant, entry = catalog.tenant(placement.tenant_id), catalog.model_by_id(placement.model_id)
    place = f"{target.node}/{target.partition.device_id} ({target.partition.kind.value})" if target else ""
    replicas = max(1, entry.model.replicas) if entry is not None else 1
    return fleet_pb2.PlanStep(
        tenant=tenant.name if tenant is not None else GONE,
        model=entry.model.name if entry is not None else GONE,
        version=placement.version,
        action="move" if target is not None else "blocked",
        reason=move.reason if move.due else f"{move.reason}; waiting for that to hold",
        replicas_now=replicas,
        replicas_planned=replicas,
        place=place,
        blocked="" if target is not None else "no other place is better",
        memory_bytes=placement.memory_bytes,
        inputs=inputs_of(move),
        alternatives=[
            models_pb2.Alternative(
                choice=one.choice, chosen=one.chosen, reason=with_names(one.reason, everybodys(catalog, [one]))
            )
            for one in (target.alternatives if target is not None else ())
        ],
    )


def _recut(catalog: Catalog, wish: Recut) -> list[fleet_pb2.PlanStep]:
    """One step for each model inside: they are cut together."""
    reason = with_names(wish.reason, everybodys(catalog, alternatives_of(wish)))
    return [_recut_of(catalog, wish, h.resident.placement, reason) for h in wish.cut.holdings]


def _recut_of(catalog: Catalog, wish: Recut, placement: Placement, reason: str) -> fleet_pb2.PlanStep:
    tenant, entry = catalog.tenant(placement.tenant_id), catalog.model_by_id(placement.model_id)
    replicas = max(1, entry.model.replicas) if entry is not None else 1
    target = wish.target
    return fleet_pb2.PlanStep(
        tenant=tenant.name if tenant is not None else GONE,
        model=entry.model.name if entry is not None else GONE,
        version=placement.version,
        action="resize" if target is not None else "blocked",
        reason=reason if wish.due else f"{reason}; waiting for that to hold",
        replicas_now=replicas,
        replicas_planned=replicas,
        place=f"{target.node}/{target.partition.device_id} ({wish.then})" if target is not None else "",
        blocked="" if target is not None else "no larger share is to be had",
        expected_attainment=1.0 - wish.late_then,
        memory_bytes=placement.memory_bytes,
        inputs=share_inputs(wish),
        alternatives=[
            models_pb2.Alternative(
                choice=one.choice, chosen=one.chosen, reason=with_names(one.reason, everybodys(catalog, [one]))
            )
            for one in alternatives_of(wish)
        ],
    )


def _step(catalog: Catalog, step: Step) -> fleet_pb2.PlanStep:
    model, verdict = step.entry.model, step.verdict
    tenant = catalog.tenant(model.tenant_id)
    planned = step.now if step.blocked else verdict.replicas
    expected = next((one for one in verdict.options if one.replicas == planned), None)
    return fleet_pb2.PlanStep(
        tenant=tenant.name if tenant is not None else GONE,
        model=model.name,
        version=step.version.number,
        action=step.action,
        reason=verdict.reason,
        replicas_now=step.now,
        replicas_ready=step.ready,
        replicas_planned=planned,
        place=step.place,
        blocked=step.blocked,
        expected_attainment=expected.attainment if expected else 0.0,
        utilisation=expected.utilisation if expected else 0.0,
        load_seconds=step.version.load_seconds,
        memory_bytes=step.version.memory_bytes,
        inputs=inputs(step),
        alternatives=[
            models_pb2.Alternative(choice=one.choice, chosen=one.chosen, reason=one.reason)
            for one in alternatives(step)
        ],
    )
