"""AlpaServe's ground: bursts over four small devices, ours beside the published schedulers.

    python benchmarks/alpaserve.py --data DIR [--write docs/results]
    python benchmarks/alpaserve.py --held-out 16 [--first-seed 9000] [--write docs/results]

DIR holds arrivals-cvC-SEED.csv, models.json and attainment.json (AlpaServe's own simulator on the same arrivals).
`every model resident` is ours with memory for all models everywhere: what swaps at no cost could reach. The last line
is one JSON object of the mean attainments without batching and with swaps at 25 GB/s. `--held-out` plays so many drawn
mixes (`benchmarks/held_out.py`) in place of DIR.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from benchmarks import held_out
from loadgen.simulate import PolicyName, read_arrivals, read_models, simulate
from loadgen.world import Hardware

CELLS = ((2, 1), (2, 4), (5, 1), (5, 4))
SEEDS = range(5)
THEIRS = {
    "SelectiveReplicationGreedy": "AlpaServe's simulator: selective replication",
    "SelectiveReplicationReplacement": "AlpaServe's simulator: Clockwork++",
    "ModelParallelismSearch": "AlpaServe's simulator: AlpaServe",
}
SETTINGS = {
    "no batching, swaps": {"batching": False, "swap": True},
    "batching, swaps": {"batching": True, "swap": True},
    "no batching, no swaps": {"batching": False, "swap": False},
}
Table = dict[str, list[float]]


def cell(data: Path, policy: PolicyName, scale: int, cv: int, memory_gb: float, switches: dict[str, bool]) -> float:
    """Mean attainment over the seeds."""
    models = read_models(data / "models.json", scale)
    hardware = Hardware(4, memory_gb)
    return statistics.mean(
        simulate(
            read_arrivals(data / f"arrivals-cv{cv}-{seed}.csv", models), models, hardware, policy, **switches
        ).attainment
        for seed in SEEDS
    )


def published(data: Path) -> Table:
    """Means of AlpaServe's simulator, per policy."""
    found: dict[tuple[str, int, int], list[float]] = defaultdict(list)
    for row in json.loads((data / "attainment.json").read_text()):
        found[row["policy"], row["slo_x"], row["cv"]].append(row["attainment"])
    return {label: [statistics.mean(found[name, s, cv]) for s, cv in CELLS] for name, label in THEIRS.items()}


def show(title: str, rows: Table) -> str:
    heads = "".join(f"{f'{s}x CV{cv}':>10}" for s, cv in CELLS)
    lines = [f"{title:46}{heads}"]
    lines += [f"{name:46}" + "".join(f"{value:10.4f}" for value in values) for name, values in rows.items()]
    return "\n".join(lines)


def markdown(tables: dict[str, Table]) -> str:
    lines = ["# AlpaServe's ground", "", "Attainment, mean of five seeds. Made by `benchmarks/alpaserve.py`.", ""]
    for title, rows in tables.items():
        lines += [f"## {title}", "", "| |" + "".join(f" {s}x CV {cv} |" for s, cv in CELLS), "|---|---|---|---|---|"]
        lines += [f"| {name} |" + "".join(f" {value:.4f} |" for value in values) for name, values in rows.items()]
        lines.append("")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", type=Path, help="folder of the published arrivals")
    source.add_argument("--held-out", type=int, metavar="MIXES", help="play so many drawn mixes")
    parser.add_argument("--first-seed", type=int, default=held_out.FIRST_SEED, help="of the drawn mixes")
    parser.add_argument("--write", type=Path, help="folder for alpaserve.{json,md} or held-out.{json,md}")
    options = parser.parse_args(arguments)
    if options.held_out:
        found = held_out.run(options.held_out, options.first_seed)
        if options.write:
            (options.write / "held-out.json").write_text(json.dumps(found, indent=1) + "\n")
            (options.write / "held-out.md").write_text(held_out.markdown(found))
        print(json.dumps(found))
        return
    tables: dict[str, Table] = {"published": published(options.data)}
    print(show("published", tables["published"]))
    for title, switches in SETTINGS.items():
        rows = {
            policy.value: [cell(options.data, policy, s, cv, 4.5, switches) for s, cv in CELLS] for policy in PolicyName
        }
        rows["partywall, every model resident"] = [
            cell(options.data, PolicyName.PARTYWALL, s, cv, 1000.0, switches) for s, cv in CELLS
        ]
        tables[title] = rows
        print(show(title, rows))
    ours = tables["no batching, swaps"][PolicyName.PARTYWALL.value]
    best = [max(values) for values in zip(*tables["published"].values(), strict=True)]
    result = {
        "cells": [f"{s}x cv{cv}" for s, cv in CELLS],
        "ours": [round(v, 4) for v in ours],
        "best_published": [round(v, 4) for v in best],
        "at_least_best_minus_0.005": [mine >= theirs - 0.005 for mine, theirs in zip(ours, best, strict=True)],
    }
    if options.write:
        (options.write / "alpaserve.json").write_text(json.dumps({**result, "tables": tables}, indent=1) + "\n")
        (options.write / "alpaserve.md").write_text(markdown(tables))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
