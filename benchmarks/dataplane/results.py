"""What `--full` measured, as tables, Markdown, JSON and a plot."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from benchmarks.dataplane.processes import machine
from benchmarks.dataplane.report import machine_line
from benchmarks.dataplane.rounds import Sample, Spread

if TYPE_CHECKING:
    from benchmarks.dataplane.full import Cell, Full

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"
HEADERS = ("load", "server", "CPU us/request", "x echo", "router", "agent", "worker", "requests/s", "p50 ms", "p99 ms")
FEATURE_HEADERS = ("switched off", "CPU us/request", "saved, us", "requests/s", "p50 ms", "p99 ms")


def tables(full: Full) -> Iterator[Table]:
    """For a terminal."""
    for title, headers, rows in _sections(full):
        table = Table(*headers, title=title)
        for row in rows:
            table.add_row(*row)
        yield table


def write(full: Full, folder: Path = RESULTS) -> list[Path]:
    """Writes dataplane.md, dataplane.json and dataplane.svg; answers their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    page, data, plot = (folder / f"dataplane.{suffix}" for suffix in ("md", "json", "svg"))
    page.write_text(_markdown(full))
    data.write_text(json.dumps(_document(full), indent=1) + "\n")
    _plot(full, plot)
    return [page, data, plot]


def _sections(full: Full) -> Iterator[tuple[str, Sequence[str], list[list[str]]]]:
    """(title, headers, rows) of each table."""
    yield "Closed loop", HEADERS, [row for cell in full.closed for row in _rows(cell)]
    yield "Open loop", HEADERS, [row for cell in full.open_loops for row in _rows(cell)]
    yield "Features switched off one by one (1 KB, 64 in flight)", FEATURE_HEADERS, _feature_rows(full.features)
    memory = [[role, f"{mib:.0f}"] for role, mib in full.memory_mib.items()]
    yield "Resident memory after all of it (proportional set size)", ("process", "MiB"), memory


def _rows(cell: Cell) -> list[list[str]]:
    rows = []
    for index, first in enumerate(cell.rounds[0]):
        mine = [samples[index] for samples in cell.rounds]
        times = Spread.of(samples[index].total_us / samples[0].total_us for samples in cell.rounds)
        roles = [_role(mine, role) for role in ("router", "agent", "worker")]
        label = cell.label if index == 0 else ""
        rows.append([label, first.server, _cpu(mine), times.text(2), *roles, *_client(mine)])
    return rows


def _feature_rows(cell: Cell) -> list[list[str]]:
    rows = []
    for index, first in enumerate(cell.rounds[0]):
        mine = [samples[index] for samples in cell.rounds]
        saved = Spread.of(samples[0].total_us - samples[index].total_us for samples in cell.rounds)
        rows.append([first.server, _cpu(mine), saved.text() if index else "", *_client(mine)])
    return rows


def _role(samples: Sequence[Sample], role: str) -> str:
    return Spread.of(s.cpu_us[role] for s in samples).text() if role in samples[0].cpu_us else ""


def _cpu(samples: Sequence[Sample]) -> str:
    return Spread.of(s.total_us for s in samples).text()


def _client(samples: Sequence[Sample]) -> list[str]:
    return [
        Spread.of(s.outcome.per_s for s in samples).text(),
        Spread.of(s.outcome.p50_ms for s in samples).text(2),
        Spread.of(s.outcome.p99_ms for s in samples).text(2),
    ]


def _markdown(full: Full) -> str:
    rounds = len(full.open_loops[0].rounds)
    made = f"Made by `python benchmarks/run.py --full` on {datetime.now(UTC):%Y-%m-%d}"
    lines = [
        "# Data plane: measured",
        "",
        f"{made}; how to read it: [performance](../performance.md).",
        "",
        f"Machine: {machine_line()}.",
        f"Load: {full.client}. Medians over {rounds} interleaved rounds, ranges in parentheses.",
        "Of 1 KB with 1 and 64 in flight there are twice as many, half of them minutes after the others.",
        f"Cores busy with other work meanwhile: {_foreign(full).text(2)}.",
        f"Before each load, all cores at once did {_together(full).text(2)} of what each does alone.",
        "",
        "![CPU per request by process](dataplane.svg)",
    ]
    for title, headers, rows in _sections(full):
        lines += ["", f"## {title}", "", f"| {' | '.join(headers)} |", "|" + " --- |" * len(headers)]
        lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(lines) + "\n"


def _foreign(full: Full) -> Spread:
    return Spread.of(s.foreign_cores for cell in (*full.closed, *full.open_loops) for r in cell.rounds for s in r)


def _together(full: Full) -> Spread:
    return Spread.of(cell.cores_together for cell in (*full.closed, *full.open_loops, full.features))


def _document(full: Full) -> dict[str, Any]:
    cells = [*full.closed, *full.open_loops, full.features]
    return {
        "machine": asdict(machine()),
        "client": full.client,
        "memory_mib": full.memory_mib,
        "cells": [
            {
                "label": cell.label,
                "shape": asdict(cell.shape),
                "cores_together": round(cell.cores_together, 3),
                "rounds": [[asdict(sample) for sample in samples] for samples in cell.rounds],
            }
            for cell in cells
        ],
    }


def _plot(full: Full, path: Path) -> None:
    """Stacked bars: CPU per request by process, the floor beside it, for the small requests."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    cells = [cell for cell in (*full.closed, *full.open_loops) if cell.shape.values == full.closed[0].shape.values]
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    for role, colour in (("echo", "#9aa5b1"), ("router", "#1f5fa8"), ("agent", "#4f9bd9"), ("worker", "#a8d1f0")):
        shown = False
        for place, cell in enumerate(cells):
            index = 0 if role == "echo" else -1
            mine = [samples[index] for samples in cell.rounds]
            bottom = sum(_median(mine, r) for r in _before(role))
            bar = axes.bar(place + (-0.2 if role == "echo" else 0.2), _median(mine, role), 0.38, bottom, color=colour)
            if not shown:
                bar.set_label("bare echo" if role == "echo" else role)
                shown = True
    axes.set_xticks(range(len(cells)), [cell.label.replace(", ", "\n").replace(" (", "\n(") for cell in cells])
    axes.set_ylabel("server CPU per request, µs")
    axes.tick_params(axis="x", labelsize=8)
    axes.legend(frameon=False, ncols=4)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})


def _before(role: str) -> tuple[str, ...]:
    """Roles that stand below this one in a bar."""
    stack = ("router", "agent", "worker")
    return stack[: stack.index(role)] if role in stack else ()


def _median(samples: Sequence[Sample], role: str) -> float:
    return Spread.of(s.cpu_us[role] for s in samples).median
