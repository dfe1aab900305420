"""Planning at scale: time, devices over the linear bound, one model's change, memory, growth.

    python benchmarks/planning.py [--sizes 1000,2500,5000,10000] [--write docs/results]

Synthetic fleet, stated here: latencies log-uniform 2 to 40 ms at batch 1 on a whole device, sub-linear in batch, 35 %
to 100 % of linear in share; rates log-normal, ten models a device, most below 1 % of one; gaps with CV 1 to 3;
objectives 15 to 40 x the latency on a whole device; weights 0.5 to 8 GB of 80; eight trust groups. Neighbours slow a
victim by sensitivity x their summed pressure. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import statistics
import time
import tracemalloc
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from router.policy.packing import Item
from router.policy.planner import FleetPlanner, ModelDemand
from router.policy.sizing import ProfileGrid

BATCHES = (1, 2, 4, 8)
SHARES = (10, 25, 50, 75, 100)
MEMORY_GB = 80.0


class LinearBound:
    """Slowdown upper bound of the synthetic fleet: 1 + sensitivity x sum of the neighbours' pressures."""

    def __init__(self, models: int, rng: np.random.Generator) -> None:
        self._sensitivity = rng.uniform(0.02, 0.08, models).tolist()
        self._pressure = rng.uniform(0.2, 1.0, models).tolist()

    def sensitivity(self, model: int) -> float:
        return float(self._sensitivity[model])

    def pressure(self, model: int, share: int) -> float:
        return float(self._pressure[model]) * share / 100

    def slowdown(self, victim: Item, neighbours: Sequence[Item]) -> float:
        return 1.0 + victim.sensitivity * sum(n.pressure for n in neighbours)


def synthetic(models: int, seed: int) -> tuple[ProfileGrid, list[ModelDemand], LinearBound]:
    """The fleet described above."""
    rng = np.random.default_rng(seed)
    base = np.exp(rng.uniform(np.log(2), np.log(40), models))
    batch_cost = 1 + np.outer(rng.uniform(0.3, 0.9, models), np.array(BATCHES) - 1)
    exponent = rng.uniform(0.35, 1.0, models)
    stretch = (100 / np.array(SHARES)) ** exponent[:, None]
    grid = ProfileGrid(
        tuple(f"m{i}" for i in range(models)),
        BATCHES,
        SHARES,
        base[:, None, None] * batch_cost[:, :, None] * stretch[:, None, :],
    )
    rate = np.exp(rng.normal(0, 0.8, models)) * 0.004 / (base / 1000)
    demands = [
        ModelDemand(
            float(rate[i]),
            float(rng.uniform(1, 3)),
            float(base[i] * rng.uniform(15, 40)),
            float(rng.uniform(0.5, 8)),
            int(rng.integers(0, 8)),
        )
        for i in range(models)
    ]
    return grid, demands, LinearBound(models, rng)


def measure(models: int, seed: int = 0) -> dict[str, Any]:
    """One size: plan from nothing, then two hundred single changes."""
    grid, demands, bound = synthetic(models, seed)
    tracemalloc.start()
    FleetPlanner(grid, demands, models // 10, MEMORY_GB, bound).plan()
    memory_mb = tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.stop()
    began = time.perf_counter()
    planner = FleetPlanner(grid, demands, models // 10, MEMORY_GB, bound)
    plan = planner.plan()
    plan_s = time.perf_counter() - began
    bad = len(planner.violations())
    rng = random.Random(seed)
    changes_ms = []
    for _ in range(200):
        model = rng.randrange(models)
        demand = replace(demands[model], rate_per_s=demands[model].rate_per_s * rng.choice([0.4, 0.9, 1.1, 2.0]))
        began = time.perf_counter()
        planner.change(model, demand)
        changes_ms.append(1000 * (time.perf_counter() - began))
    return {
        "models": models,
        "fleet": models // 10,
        "devices": plan.devices,
        "lower_bound": round(plan.lower_bound, 1),
        "ratio": round(plan.devices / plan.lower_bound, 4),
        "violations": bad + len(planner.violations()),
        "plan_s": round(plan_s, 3),
        "change_ms_p50": round(statistics.median(changes_ms), 2),
        "change_ms_max": round(max(changes_ms), 2),
        "planner_memory_mb": round(memory_mb, 1),
        "process_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
    }


def plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Planning time and one change against the number of models."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.6, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    sizes = [row["models"] for row in rows]
    left.plot(sizes, [row["plan_s"] for row in rows], marker="o", color="#1b6ca8")
    left.set_ylabel("whole plan, s")
    right.plot(sizes, [row["change_ms_p50"] for row in rows], marker="o", color="#1b6ca8", label="median")
    right.plot(sizes, [row["change_ms_max"] for row in rows], marker="o", color="#9aa5b1", label="worst of 200")
    right.set_ylabel("one model's change, ms")
    right.legend()
    for axes in (left, right):
        axes.set_xlabel("models (a device per ten)")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    figure.savefig(path, format="svg")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default="1250,2500,5000,10000")
    parser.add_argument("--write", type=Path, help="folder for planning.json and planning.svg")
    options = parser.parse_args()
    rows = []
    for models in map(int, options.sizes.split(",")):
        rows.append(measure(models))
        print(rows[-1])
    if options.write:
        (options.write / "planning.json").write_text(json.dumps(rows, indent=1) + "\n")
        plot(rows, options.write / "planning.svg")
    print(json.dumps(rows[-1]))


if __name__ == "__main__":
    main()
