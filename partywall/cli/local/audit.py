"""`partywall audit`: the audit log of a data directory, read from its file. Needs no router and does not mind one."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from partywall.cli.local.extras import extra
from partywall.cli.local.servers import required_data_dir
from partywall.cli.options import command
from partywall.cli.session import Session
from partywall.errors import DataLoss, InvalidInput, NotFound

if TYPE_CHECKING:
    from isolation.vault.audit import AuditReport

app = typer.Typer(no_args_is_help=True, help="The audit log of a data directory: is it whole, and what is in it.")

_COLUMNS = {"n": "ROW", "at": "AT", "event": "EVENT", "tenant": "TENANT", "fields": "DETAILS"}


@app.command("verify")
@command
def verify(
    session: Session,
    head: Annotated[str, typer.Option("--head", help="A head noted before: it must still be in the chain.")] = "",
) -> None:
    """Check the log's hash chain from its first row to its last; reads only, also while a router runs."""
    path, seen = _path(session), _Heads(head)
    report = _read(path, seen)
    session.printer.record(
        {
            "file": str(path),
            "sound": report.first_break is None and seen.found,
            "entries": report.rows,
            "first_at": report.first_at,
            "last_at": report.last_at,
            "head": report.head,
            "first_broken_line": report.first_break,
            "unfinished_last_line": report.torn,
        }
    )
    _refuse_break(path, report)
    if not seen.found:
        raise DataLoss(
            f"the chain of {str(path)!r} is sound but the head {head[:64]} is not in it: rows were cut off or the "
            "whole chain was computed anew; keep the file and compare it with a backup",
            fields={"field": "head", "hint": "compare the log with a backup of the data directory"},
        )
    session.printer.note(
        "note the head elsewhere now and then; `partywall audit verify --head H` then finds cut-off rows"
    )


@app.command("list")
@command
def list_rows(
    session: Session,
    tenant: Annotated[str, typer.Option("--tenant", help="Only of this tenant: its name or id.")] = "",
    limit: Annotated[int, typer.Option("--limit", min=1, max=100_000, help="How many, newest first.")] = 50,
) -> None:
    """What was done: the newest rows of the log; only those that the chain vouches for."""
    path, found = _path(session), _Listing(tenant, limit)
    report = _read(path, found)
    about = f" about {tenant}" if tenant else ""
    session.printer.rows(list(reversed(found.rows)), _COLUMNS, empty=f"no rows{about} in the audit log")
    _refuse_break(path, report)


class _Heads:
    """Whether a hash noted before is one of the chain's."""

    def __init__(self, head: str) -> None:
        self._head = head.strip().lower()
        self.found = not self._head.strip("0")  # none given, or that of a log without rows

    def __call__(self, row: Mapping[str, Any], digest: str) -> None:
        self.found = self.found or digest == self._head


class _Listing:
    """The last rows, with tenants by the names that the log itself gives them."""

    def __init__(self, tenant: str, limit: int) -> None:
        self._tenant = tenant
        self._names: dict[str, str] = {}
        self.rows: deque[dict[str, Any]] = deque(maxlen=limit)

    def __call__(self, row: Mapping[str, Any], digest: str) -> None:
        fields = dict(row.get("fields", {}))
        tenant_id = fields.pop("tenant_id", "")
        if row.get("event") == "tenant.created":
            self._names[tenant_id] = fields.get("name", "")
        name = self._names.get(tenant_id, "")
        if self._tenant and self._tenant not in (tenant_id, name):
            return
        self.rows.append(
            {
                "n": row["n"],
                "at": row.get("at", ""),
                "event": row.get("event", ""),
                "tenant": name or tenant_id,
                "tenant_id": tenant_id,
                "fields": fields,
            }
        )


def _path(session: Session) -> Path:
    data_dir = required_data_dir(session)
    with extra("router"):
        from router.control.data_dir import DataDir
    return DataDir(data_dir).audit


def _read(path: Path, each: _Heads | _Listing) -> AuditReport:
    from isolation.vault.audit import verify as read

    try:
        return read(path, each)
    except FileNotFoundError:
        raise NotFound(
            f"there is no audit log at {str(path)!r}",
            fields={"hint": "a router writes it from its first start on; if one has run here, the log was taken away"},
        ) from None
    except OSError as failure:
        raise InvalidInput(
            f"audit log {str(path)!r} cannot be read: {failure.strerror}; run this as the router's user",
            fields={"field": "data_dir", "hint": "run it as the user that runs the router"},
        ) from failure


def _refuse_break(path: Path, report: AuditReport) -> None:
    if report.first_break is None:
        return
    raise DataLoss(
        f"line {report.first_break} of audit log {str(path)!r} does not fit the chain: it, or what was before it, "
        f"was changed, removed, inserted or damaged; the {report.rows} lines before it are sound",
        fields={
            "line": str(report.first_break),
            "hint": "keep the file as evidence and compare it with a backup; to begin a new log, stop the router and "
            "move the file away",
        },
    )
