"""`partywall plan --dry-run`: what the live planner would do now."""

from __future__ import annotations

from typing import Any

from partywall.cli.session import Session
from partywall.client.flow import FLEET
from partywall.v1 import fleet_pb2, models_pb2

_COLUMNS = {
    "tenant": "TENANT",
    "model": "MODEL",
    "action": "ACTION",
    "replicas": "REPLICAS",
    "expected_attainment": "ATTAINMENT",
    "reason": "REASON",
    "place": "PLACE",
}


def dry_run(session: Session) -> None:
    """Asks the router's planner for a preview and prints it; nothing is changed."""
    answer = session.operator().call(FLEET["PreviewPlan"], fleet_pb2.PreviewPlanRequest(), idempotent=True)
    steps = [step_row(step) for step in answer.steps]
    if session.printer.json:
        totals = {"replicas_now": answer.replicas_now, "replicas_planned": answer.replicas_planned}
        session.printer.record({"enabled": answer.enabled, **totals, "steps": steps})
        return
    rows = [
        {
            **row,
            "replicas": f"{row['replicas_now']} -> {row['replicas_planned']}",
            "place": row["place"] or row["blocked"],
        }
        for row in steps
    ]
    session.printer.rows(rows, _COLUMNS, empty="no model with an objective serves")
    session.printer.text(f"{answer.replicas_now} replicas stand, {answer.replicas_planned} would")
    if not answer.enabled:
        session.printer.note("the planner is off (--no-planner): this is what it would do")


def step_row(step: fleet_pb2.PlanStep) -> dict[str, Any]:
    """One model's step."""
    return {
        "tenant": step.tenant,
        "model": step.model,
        "version": step.version,
        "action": step.action,
        "reason": step.reason,
        "replicas_now": step.replicas_now,
        "replicas_ready": step.replicas_ready,
        "replicas_planned": step.replicas_planned,
        "place": step.place,
        "blocked": step.blocked,
        "expected_attainment": round(step.expected_attainment, 4),
        "utilisation": round(step.utilisation, 3),
        "load_seconds": round(step.load_seconds, 3),
        "memory_bytes": step.memory_bytes,
        "inputs": dict(step.inputs),
        "alternatives": [_alternative(one) for one in step.alternatives],
    }


def _alternative(one: models_pb2.Alternative) -> dict[str, Any]:
    return {"choice": one.choice, "chosen": one.chosen, "reason": one.reason}
