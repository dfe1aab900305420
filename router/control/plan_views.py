"""The live planner's steps as the wire has them."""

from __future__ import annotations

from collections.abc import Sequence

from partywall.v1 import fleet_pb2, models_pb2
from router.control.catalog import Catalog
from router.control.plan_steps import Step, alternatives, inputs
from router.control.views import GONE


def preview_view(catalog: Catalog, steps: Sequence[Step], *, enabled: bool) -> fleet_pb2.PreviewPlanResponse:
    """A preview of the whole plan."""
    shown = [_step(catalog, step) for step in steps]
    return fleet_pb2.PreviewPlanResponse(
        enabled=enabled,
        steps=shown,
        replicas_now=sum(one.replicas_now for one in shown),
        replicas_planned=sum(one.replicas_planned for one in shown),
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
