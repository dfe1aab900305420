"""Tables of the data-plane benchmark."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from benchmarks.dataplane.bench import Comparison, added_ms, ratio
from benchmarks.dataplane.processes import machine
from benchmarks.dataplane.rounds import Sample, Spread

ROLES = ("router", "agent", "worker")


def machine_line() -> str:
    """One line about this machine."""
    here = machine()
    return (
        f"{here.cpu}, {here.cores} cores, {here.memory_gib} GiB, Linux {here.kernel}, "
        f"Python {here.python}, grpcio {here.grpcio}, uvloop {here.uvloop}"
    )


def comparison_table(comparison: Comparison) -> Table:
    """Both servers under the three shapes; medians with ranges."""
    table = Table(
        "load",
        "server",
        "CPU us/request",
        *ROLES,
        "x echo",
        "requests/s",
        "p50 ms",
        "p99 ms",
        title=f"Data plane, 1 KB, {comparison.client}, {len(comparison.busy)} interleaved rounds, median (range)",
        caption=f"cores busy with other work meanwhile: {_foreign(comparison).text(2)}",
    )
    shapes = (
        ("1 x 64", comparison.busy),
        ("64 x 1", comparison.many),
        ("1 x 1", comparison.idle),
    )
    for label, rounds in shapes:
        floor, ours = [r[0] for r in rounds], [r[1] for r in rounds]
        table.add_row(label, "bare echo", _cpu(floor), "", "", "", "1", *_client_columns(floor))
        roles = [Spread.of(s.cpu_us[role] for s in ours).text() for role in ROLES]
        times = ratio(rounds).text(2)
        table.add_row("", "partywall", _cpu(ours), *roles, times, *_client_columns(ours), end_section=True)
    added = added_ms(comparison.idle)
    table.add_row("1 x 1", "added to p50", "", "", "", "", "", "", added.text(2), "")
    return table


def _cpu(samples: Sequence[Sample]) -> str:
    return Spread.of(s.total_us for s in samples).text()


def _client_columns(samples: Sequence[Sample]) -> list[str]:
    return [
        Spread.of(s.outcome.per_s for s in samples).text(),
        Spread.of(s.outcome.p50_ms for s in samples).text(2),
        Spread.of(s.outcome.p99_ms for s in samples).text(2),
    ]


def _foreign(comparison: Comparison) -> Spread:
    return Spread.of(s.foreign_cores for samples in comparison.busy for s in samples)
