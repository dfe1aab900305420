"""`partywall partitions`: what the fleet is cut into, and another size or place for one of the pieces."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from partywall.cli.options import command
from partywall.cli.remote.wall_rows import change_record, partition_use_row
from partywall.cli.session import Connection, Session
from partywall.cli.values import MOST_CORES, human_bytes
from partywall.client.flow import FLEET
from partywall.domain.names import check_name
from partywall.errors import DeadlineExceeded, InvalidInput, NotReady, Reason
from partywall.v1 import fleet_pb2 as pb

partitions = typer.Typer(no_args_is_help=True, help="List, resize and move partitions.")

Which = Annotated[str, typer.Argument(metavar="PARTITION", help="A partition's id, a placement's id, or TENANT/MODEL.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what it would be, with reasons; change nothing.")]
Wait = Annotated[bool, typer.Option("--wait", help="Until the old partition is drained and gone.")]
WAIT_S = 300.0
POLL_S = 0.25


@partitions.command("list")
@command
def list_partitions(session: Session) -> None:
    """All partitions with who is in them and what enforces them."""
    rows = [partition_use_row(use) for use in _list(session.operator())]
    shown = rows if session.printer.json else [_for_people(row) for row in rows]
    columns = {
        "id": "PARTITION",
        "place": "PLACE",
        "size": "SIZE",
        "by": "CHOSEN BY",
        "state": "STATE",
        "memory": "PLACED",
    }
    session.printer.rows(shown, {**columns, "residents": "RESIDENTS", "wall": "WALL"}, empty="no partitions yet")


@partitions.command("resize")
@command
def resize(
    session: Session,
    partition: Which,
    share: Annotated[int, typer.Option("--share", metavar="PERCENT", help="Of the device, 1 to 100.")] = 0,
    cores: Annotated[int, typer.Option("--cores", max=MOST_CORES, help="Cores, on a CPU.")] = 0,
    auto: Annotated[bool, typer.Option("--auto", help="Leave its size to the planner again.")] = False,
    dry_run: DryRun = False,
    wait: Wait = False,
) -> None:
    """Give a partition another size: a new one takes over, and nothing that runs is refused. The planner keeps off it
    from then on, until `--auto`."""
    if auto and not (share or cores or dry_run):
        answer = session.operator().call(
            FLEET["ChangePartition"], pb.ChangePartitionRequest(partition=partition, automatic=True)
        )
        session.printer.record({**partition_use_row(answer.before), "reason": answer.reason})
        return
    if auto or bool(share) == bool(cores):
        raise InvalidInput("give --share PERCENT or --cores N, or --auto alone", fields={"field": "share"})
    if not 0 <= share <= 100 or cores < 0:
        given = share or cores
        raise InvalidInput(f"--share must be 1 to 100 and --cores above 0, got {given}", fields={"field": "share"})
    request = pb.ChangePartitionRequest(partition=partition, share_percent=share, cores=cores, dry_run=dry_run)
    _change(session, request, wait=wait)


@partitions.command("move")
@command
def move(
    session: Session,
    partition: Which,
    node: Annotated[str, typer.Option("--node", help="Where to.")] = "",
    device: Annotated[str, typer.Option("--device", help="Which device there.")] = "",
    dry_run: DryRun = False,
    wait: Wait = False,
) -> None:
    """Take a partition to another node or device: a new one takes over, and nothing that runs is refused."""
    if not node and not device:
        raise InvalidInput("give --node NODE, --device DEVICE, or both", fields={"field": "node"})
    if node:
        check_name(node, "node")
    request = pb.ChangePartitionRequest(partition=partition, node=node, device_id=device, dry_run=dry_run)
    _change(session, request, wait=wait)


def _change(session: Session, request: pb.ChangePartitionRequest, *, wait: bool) -> None:
    operator = session.operator()
    answer = operator.call(FLEET["ChangePartition"], request)
    record = change_record(answer)
    if wait and not request.dry_run:
        _wait(operator, answer)
        record["state"] = "standing"
    if session.printer.json:
        session.printer.record(record)
        return
    session.printer.record(
        {k: v for k, v in record.items() if k not in ("considered", "trust", "decisions", "released")}
    )
    for line in record["trust"]:
        session.printer.text(f"  beside {line}")
    for name in record["released"]:
        session.printer.text(f"  parked weights of {name} do not go along: it loads when it is wanted again")
    columns = {"chosen": "CHOSEN", "choice": "CHOICE", "reason": "REASON"}
    session.printer.rows(record["considered"], columns, empty="")
    if request.dry_run:
        session.printer.note("nothing was changed; leave --dry-run out to do it")
    elif not wait:
        session.printer.note("how far it is: partywall partitions list")


def _wait(operator: Connection, answer: pb.ChangePartitionResponse) -> None:
    """Until the new partition stands alone.

    Raises:
        NotReady: It did not come up; the old one serves on.
        DeadlineExceeded: It takes too long.
    """
    limit_s = time.monotonic() + WAIT_S
    new, old = answer.partition.id, answer.before.partition.id
    while time.monotonic() < limit_s:
        states = {use.partition.id: use.state for use in _list(operator)}
        if new not in states:
            raise NotReady(
                f"partition {new} did not come up and {old} serves on; `partywall explain MODEL` says why",
                reason=Reason.WRONG_STATE,
                fields={"partition": new},
            )
        if states[new] in ("standing", "waiting") and old not in states:
            return
        time.sleep(POLL_S)
    raise DeadlineExceeded(f"partition {new} has not taken over in {WAIT_S:.0f} s; it goes on in the background")


def _list(operator: Connection) -> list[pb.PartitionUse]:
    answer = operator.call(FLEET["ListPartitions"], pb.ListPartitionsRequest(), idempotent=True)
    return list(answer.partitions)


def _for_people(row: dict[str, Any]) -> dict[str, Any]:
    cores = f" cores {','.join(map(str, row['cores']))}" if row["cores"] else ""
    state = f"{row['state']} {row['weight']:.0%}" if row["state"] == "arriving" else row["state"]
    return {
        "id": row["id"],
        "place": f"{row['node']} {row['device']} {row['kind']}",
        "size": f"{row['share_percent']} %{cores}",
        "state": state,
        "memory": human_bytes(row["placed_bytes"]),
        "by": row["share_by"] or "",
        "residents": ", ".join(row["residents"]),
        "wall": row["wall"],
    }
