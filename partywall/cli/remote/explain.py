"""`partywall explain`, `requests` and `decisions`: why something was done, or was not."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from partywall.cli.options import command
from partywall.cli.output import Printer
from partywall.cli.remote.models import Tenant
from partywall.cli.remote.rows import decision_row, model_row, request_row, slowdown_row
from partywall.cli.session import Connection, Session
from partywall.client.flow import FLEET, MODELS
from partywall.client.views import model_info
from partywall.domain.names import check_model_name
from partywall.errors import InvalidInput, NotFound, Reason
from partywall.v1 import fleet_pb2, models_pb2

requests = typer.Typer(no_args_is_help=True, help="The last requests, as the router remembers them.")
decisions = typer.Typer(no_args_is_help=True, help="What was decided, with inputs and alternatives.")

DECISION_PREFIX = "decision-"
Limit = Annotated[int, typer.Option("--limit", min=1, max=1000, help="How many, newest first.")]
OfModel = Annotated[str, typer.Option("--model", help="Only of this model.")]


@command
def explain(
    session: Session,
    what: Annotated[str, typer.Argument(metavar="MODEL|REQUEST|DECISION", help="A name or an id.")],
    tenant: Tenant = None,
) -> None:
    """Why a model stands where it stands, what became of a request, or how a decision came about."""
    if what.startswith(DECISION_PREFIX):
        _explain_decision(session, what, tenant)
        return
    connection = session.models_of(tenant)
    try:
        check_model_name(what)
        _explain_model(session.printer, connection, what)
    except (InvalidInput, NotFound) as no_model:
        request = models_pb2.ExplainRequestRequest(id=what)
        try:
            answer = connection.call(MODELS["ExplainRequest"], request, idempotent=True)
        except NotFound:
            raise NotFound(
                f"{what[:80]!r} is neither a model nor a request that is still remembered; see `partywall models "
                "list`, `partywall requests list` and `partywall decisions list`",
                reason=Reason.NOT_FOUND,
            ) from no_model
        _print_request(session.printer, answer)


@requests.command("list")
@command
def list_requests(
    session: Session,
    model: OfModel = "",
    failed: Annotated[bool, typer.Option("--failed", help="Only those that were refused or failed.")] = False,
    limit: Limit = 50,
    tenant: Tenant = None,
) -> None:
    """The tenant's last requests: where they went, what was predicted and what it took."""
    request = models_pb2.ListRequestsRequest(model=model, failed_only=failed, limit=limit)
    answer = session.models_of(tenant).call(MODELS["ListRequests"], request, idempotent=True)
    columns = {"at": "AT", "id": "REQUEST", "model": "MODEL", "outcome": "OUTCOME", "predicted_ms": "PREDICTED MS"}
    columns |= {"actual_ms": "ACTUAL MS", "queue_ms": "QUEUE MS", "service_ms": "SERVICE MS", "attempts": "TRIES"}
    session.printer.rows([request_row(one) for one in answer.requests], columns, empty="no requests remembered")


@decisions.command("list")
@command
def list_decisions(
    session: Session,
    model: OfModel = "",
    kind: Annotated[str, typer.Option("--kind", help="Only of this kind, e.g. placement or scale.")] = "",
    limit: Limit = 50,
    all_tenants: Annotated[bool, typer.Option("--all", help="As the operator: of every tenant.")] = False,
    tenant: Tenant = None,
) -> None:
    """Recorded decisions, newest first; `partywall explain DECISION` shows one whole."""
    if all_tenants:
        everyone = fleet_pb2.ListFleetDecisionsRequest(kind=kind, limit=limit)
        found = session.operator().call(FLEET["ListDecisions"], everyone, idempotent=True).decisions
    else:
        mine = models_pb2.ListDecisionsRequest(model=model, kind=kind, limit=limit)
        found = session.models_of(tenant).call(MODELS["ListDecisions"], mine, idempotent=True).decisions
    columns = {"at": "AT", "id": "DECISION", "kind": "KIND", "subject": "MODEL", "summary": "SUMMARY"}
    if all_tenants:
        columns = {"tenant": "TENANT", **columns}
    which = f" of kind {kind}" if kind else ""
    session.printer.rows([decision_row(one) for one in found], columns, empty=f"no decisions{which} recorded yet")


def _explain_decision(session: Session, decision_id: str, tenant: str | None) -> None:
    if tenant is None and session.settings.api_key() is None:
        # Without a tenant's key it is the operator who asks.
        request = fleet_pb2.ListFleetDecisionsRequest(id=decision_id)
        decision = session.operator().call(FLEET["ListDecisions"], request, idempotent=True).decisions[0]
    else:
        one = models_pb2.GetDecisionRequest(id=decision_id)
        decision = session.models_of(tenant).call(MODELS["GetDecision"], one, idempotent=True)
    row = decision_row(decision)
    if session.printer.json:
        session.printer.record(row)
    else:
        _print_decision(session.printer, row)


def _explain_model(printer: Printer, connection: Connection, name: str) -> None:
    request = models_pb2.ExplainModelRequest(name=name)
    answer = connection.call(MODELS["ExplainModel"], request, idempotent=True)
    model = model_row(model_info(answer.model))
    rows = [decision_row(decision) for decision in answer.decisions]
    slowdowns = [slowdown_row(one) for one in answer.slowdowns]
    if printer.json:
        printer.record({"model": model, "decisions": rows, "slowdowns": slowdowns})
        return
    printer.record({key: value for key, value in model.items() if key != "versions"})
    if slowdowns:
        columns = {"version": "VERSION", "node": "NODE", "share_percent": "SHARE %", "neighbours": "BUSY NEIGHBOURS"}
        columns |= {"predicted": "PREDICTED", "observed": "OBSERVED", "bound": "BOUND", "basis": "BASIS"}
        printer.rows(slowdowns, {**columns, "wants_profile": "WANTS PROFILE"}, empty="")
    if not rows:
        printer.note("no decisions recorded yet")
    for row in rows:
        _print_decision(printer, row)


def _print_request(printer: Printer, answer: models_pb2.ExplainRequestResponse) -> None:
    rows = [request_row(one) for one in answer.requests]
    why = [decision_row(one) for one in answer.decisions]
    if printer.json:
        printer.record({"requests": rows, "decisions": why})
        return
    for row in rows:
        printer.record(row)
    for decision in why:
        _print_decision(printer, decision)


def _print_decision(printer: Printer, row: dict[str, Any]) -> None:
    printer.text(f"\n{row['at']}  {row['kind']}  {row['summary']}  ({row['id']})")
    for key, value in row["inputs"].items():
        printer.text(f"    {key} = {value}")
    columns = {"chosen": "CHOSEN", "choice": "CHOICE", "predicted_finish_ms": "FINISH MS", "reason": "REASON"}
    printer.rows(row["alternatives"], columns, empty="    no alternatives")
