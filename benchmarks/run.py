"""`make bench`: what Partywall costs on this machine, in a few minutes.

Prints tables (time to a ready worker among them), and as the last line of standard output one JSON object with the
parts `dataplane`, `sealed`, `interference` and `simulation`; a part that this checkout does not have is null.

Run: python benchmarks/run.py [--rounds 5] [--seconds 2] [--only dataplane ...] [--full]
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import dataplane, sealed
from benchmarks.dataplane.report import comparison_table, machine_line

PARTS = ("dataplane", "sealed", "interference", "simulation")
TABLES = ("zygote",)
"""Measured and printed, and no part of the last line."""
Figures = Mapping[str, Any]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds of each shape")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of one busy run of one server")
    parser.add_argument(
        "--only", choices=(*PARTS, *TABLES), nargs="+", default=(*PARTS, *TABLES), help="measure only these parts"
    )
    parser.add_argument("--full", action="store_true", help="the whole data-plane matrix, into docs/results (long)")
    options = parser.parse_args(arguments)
    console = Console(width=140)
    console.print(machine_line())
    if options.full:
        importlib.import_module("benchmarks.dataplane.full").run(console, options.rounds)
        return
    steps: dict[str, Callable[[], Figures | None]] = {
        "dataplane": lambda: _dataplane(console, dataplane.Plan(options.rounds, options.seconds)),
        "sealed": lambda: _sealed(console, options.rounds),
        "interference": lambda: _discovered(console, "interference"),
        "simulation": lambda: _discovered(console, "simulation"),
    }
    if "zygote" in options.only:
        _zygote(console)
    figures = {part: steps[part]() if part in options.only else None for part in PARTS}
    print(json.dumps(figures), flush=True)


def _dataplane(console: Console, plan: dataplane.Plan) -> Figures:
    comparison = dataplane.compare(plan, lambda text: print(text, file=sys.stderr, flush=True))
    console.print(comparison_table(comparison))
    return comparison.summary()


def _zygote(console: Console) -> None:
    """Time to ready: forked from the zygote, and as a fresh process."""
    zygote = importlib.import_module("benchmarks.zygote")
    found = zygote.measure()
    table = Table("a worker with MiniLM, until its first answer", "seconds", title="Time to ready (medians)")
    table.add_row("forked from the zygote", f"{found['zygote_ready_s']:.2f}")
    table.add_row("a fresh process", f"{found['fresh_ready_s']:.2f}")
    table.add_row(f"{zygote.AT_ONCE} at once from the zygote, all ready", f"{found['zygote_eight_at_once_s']:.2f}")
    table.add_row("the zygote itself, once per agent", f"{found['zygote_import_s']:.2f}")
    console.print(table)


def _sealed(console: Console, rounds: int) -> Figures:
    found = sealed.measure(rounds=rounds)
    table = Table("sealed artifact, from the page cache", "GB/s", title="Opening what is sealed")
    table.add_row("plain readinto", f"{found['readinto_gb_s']:.2f}")
    table.add_row(f"open, {found['threads']:.0f} thread(s)", f"{found['open_gb_s']:.2f}")
    table.add_row("open, 1 thread", f"{found['open_1_gb_s']:.2f}")
    table.add_row("seal, file to file", f"{found['seal_gb_s']:.2f}")
    console.print(table)
    return {name: found[name] for name in ("open_gb_s", "readinto_gb_s")}


def _discovered(console: Console, part: str) -> Figures | None:
    """What `measure()` of `benchmarks/PART.py` answers; None where there is no such part. Its errors are not hidden."""
    name = f"benchmarks.{part}"
    found = importlib.util.find_spec(name)
    measure: Callable[[], Figures] | None = getattr(importlib.import_module(name), "measure", None) if found else None
    if measure is None:
        console.print(f"{part}: not in this checkout")
        return None
    figures = measure()
    console.print(f"[bold]{part}[/bold]")
    console.print_json(data=dict(figures))
    return figures


if __name__ == "__main__":
    main()
