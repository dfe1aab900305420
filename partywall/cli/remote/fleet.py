"""`partywall fleet`: what stands where."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from partywall.cli.options import command
from partywall.cli.output import Printer
from partywall.cli.remote.rows import fleet_record, time_text
from partywall.cli.remote.wall_rows import attestation_row, event_row
from partywall.cli.session import Session
from partywall.cli.values import human_bytes, parse_duration, whole_seconds
from partywall.client.flow import FLEET
from partywall.domain.names import check_name
from partywall.errors import NotReady, Reason
from partywall.v1 import fleet_pb2

fleet = typer.Typer(no_args_is_help=True, help="Nodes, devices, partitions and replicas.")

NodeName = Annotated[str, typer.Argument(metavar="NODE", help="The node's name.")]
DEFAULT_TOKEN_LIFETIME_S = 900.0


@fleet.command("show")
@command
def show(session: Session) -> None:
    """The whole fleet."""
    answer = session.operator().call(FLEET["GetFleet"], fleet_pb2.GetFleetRequest(), idempotent=True)
    record = fleet_record(answer)
    if session.printer.json:
        session.printer.record(record)
        return
    _print_nodes(session.printer, record)
    rows = [{**replica, **_place(replica)} for replica in record["replicas"]]
    columns = {"replica": "REPLICA", "state": "STATE", "place": "PLACE", "wall": "WALL", "load": "LOAD"}
    session.printer.rows(rows, {**columns, "reason": "REASON"}, empty="no replicas")


@fleet.command("token")
@command
def token(
    session: Session,
    node: NodeName,
    lifetime: Annotated[
        float, typer.Option("--lifetime", parser=parse_duration, metavar="15m", help="Until it expires.")
    ] = DEFAULT_TOKEN_LIFETIME_S,
) -> None:
    """Make a one-time token with which an agent joins under this name."""
    request = fleet_pb2.CreateJoinTokenRequest(node=check_name(node, "node"), lifetime_s=whole_seconds(lifetime))
    answer = session.operator().call(FLEET["CreateJoinToken"], request)
    expires = time_text(answer.expires_at)
    if session.printer.json:
        session.printer.record({"node": node, "bundle": answer.bundle, "expires_at": expires})
        return
    # One line as it is to be copied: in a table it would be cut or folded.
    session.printer.text(answer.bundle)
    session.printer.note(f"opens once, for node {node}, until {expires}")
    command = f"partywall agent --data-dir D --node {node} --router HOST:LINK_PORT"
    session.printer.note(f"on the node: PARTYWALL_AGENT_JOIN=BUNDLE {command}")


@fleet.command("forget")
@command
def forget(session: Session, node: NodeName) -> None:
    """Remove a node that will not come back."""
    request = fleet_pb2.ForgetNodeRequest(node=check_name(node, "node"))
    session.operator().call(FLEET["ForgetNode"], request)
    session.printer.record({"node": node, "forgotten": True})


@fleet.command("attest")
@command
def attest(session: Session) -> None:
    """Read every wall again, now: what was given beside what the kernel and the driver show."""
    answer = session.operator().call(FLEET["AttestFleet"], fleet_pb2.AttestFleetRequest(), idempotent=True)
    replicas = [attestation_row(one) for one in answer.replicas]
    wrong = [one for one in replicas if not one["ok"]]
    if session.printer.json:
        session.printer.record({"ok": not wrong, "replicas": replicas, "silent": list(answer.silent)})
    else:
        rows = [{**check, "replica": f"{one['tenant']}/{one['model']}:{one['version']} on {one['node']}"}
                for one in replicas for check in one["checks"]]  # fmt: skip
        columns = {"replica": "REPLICA", "what": "WHAT", "expected": "EXPECTED", "seen": "SEEN", "ok": "OK"}
        session.printer.rows(rows, columns, empty="no replicas")
        for node in answer.silent:
            session.printer.note(f"node {node} did not answer")
    if wrong:
        raise NotReady(
            f"{len(wrong)} of {len(replicas)} walls do not stand: {'; '.join(wrong[0]['reasons'])}",
            reason=Reason.WRONG_STATE,
            fields={"hint": "the workers are started anew; see partywall fleet events"},
        )


@fleet.command("events")
@command
def events(
    session: Session,
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000, help="How many, newest first.")] = 100,
    node: Annotated[str, typer.Option("--node", help="Of this node only.")] = "",
) -> None:
    """Faults, lost walls and stuck batches, newest first."""
    request = fleet_pb2.ListEventsRequest(limit=limit, node=node)
    answer = session.operator().call(FLEET["ListEvents"], request, idempotent=True)
    columns = {"at": "AT", "kind": "KIND", "node": "NODE", "device": "DEVICE", "message": "WHAT HAPPENED"}
    session.printer.rows([event_row(event) for event in answer.events], columns, empty="nothing happened")


def _print_nodes(printer: Printer, record: dict[str, Any]) -> None:
    rows = [
        {
            "name": node["name"],
            "state": node["state"],
            "device": f"{device['id']} {device['name']}" if device else "",
            "units": device["compute_units"] if device else "",
            "memory": human_bytes(device["memory_bytes"]) if device else "",
            "cut": ", ".join(device["partitions"]) if device else "",
            "fenced": _restriction(device) if device else "",
        }
        for node in record["nodes"]
        for device in node["devices"] or [None]
    ]
    columns = {"name": "NODE", "state": "STATE", "device": "DEVICE", "units": "UNITS", "memory": "MEMORY"}
    columns |= {"cut": "CUT BY", "fenced": "RESTRICTED"}
    printer.rows(rows, columns, empty="no nodes yet: partywall fleet token NODE")


def _restriction(device: dict[str, Any]) -> str:
    """Why a device takes nothing new, or nothing that would have to be made."""
    return device["fenced"] or (f"observe only: {device['observed']}" if device["observed"] else "")


def _place(replica: dict[str, Any]) -> dict[str, str]:
    """The columns that people read, out of several fields each."""
    partition = replica["partition"]
    cores = f" {','.join(map(str, partition['cores']))}" if partition["cores"] else ""
    return {
        "replica": f"{replica['tenant']}/{replica['model']}:{replica['version']}",
        "place": f"{replica['node']} {partition['device']} {partition['kind']}{cores}",
        "load": f"{replica['queued']} queued, {replica['in_flight']} running",
    }
