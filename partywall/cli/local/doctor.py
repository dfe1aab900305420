"""`partywall doctor`: what this machine can do, and what is missing with the fix."""

from __future__ import annotations

from collections.abc import Callable

from partywall.cli.local import checks, gpu_checks, partition_checks
from partywall.cli.local.checks import Check, Status
from partywall.cli.options import command
from partywall.cli.output import Printer
from partywall.cli.session import Session
from partywall.errors import NotReady, Reason


@command
def doctor(session: Session) -> None:
    """Look at GPUs, MPS, MIG, cores, sandbox layers, limits, partitions given out, disk and libraries."""
    report(session.printer, [check for look in _looks(session) for check in look()])


def report(printer: Printer, found: list[Check]) -> None:
    """Prints the findings.

    Raises:
        NotReady: One of them fails; the hint is its fix.
    """
    rows = [check.row() for check in found]
    failed = [check for check in found if check.status is Status.FAIL]
    if printer.json:
        printer.record({"ok": not failed, "checks": rows})
    else:
        columns = {"area": "AREA", "check": "CHECK", "status": "STATUS", "found": "FOUND", "fix": "FIX"}
        printer.rows(rows, columns, empty="nothing was checked")
    if failed:
        names = ", ".join(f"{check.area}/{check.name}" for check in failed)
        raise NotReady(f"doctor found problems: {names}", reason=Reason.WRONG_STATE, fields={"hint": failed[0].fix})


def _looks(session: Session) -> tuple[Callable[[], list[Check]], ...]:
    return (
        gpu_checks.gpus,
        gpu_checks.mps,
        gpu_checks.privileges,
        checks.cores,
        checks.memory,
        checks.cgroups,
        checks.sandbox,
        checks.limits,
        lambda: partition_checks.partitions(session.settings.data_dir),
        lambda: checks.disk(session.settings.data_dir),
        checks.libraries,
    )
