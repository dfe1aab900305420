"""ParvaGPU's ground: how few A100s carry its six scenarios without a violation.

    python benchmarks/parvagpu.py --data DIR [--write docs/results]

DIR is the profile folder of the ParvaGPU (SC'24) artifact. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from router.policy.geometry import SlicePosition, SliceSize, legal
from router.policy.slicing import LATENCY_MARGIN, SliceDemand, SlicePlan, SliceSetting, plan_slices

PUBLISHED = (2, 3, 5, 7, 13, 16)
"""Devices that ParvaGPU's own planner needs."""
RATE_TOLERANCE = 1e-6

Row = tuple[int, int, int, float, float]


def read_rows(path: Path) -> list[Row]:
    """Size, batch, processes, requests per second per process, latency in seconds."""
    with path.open(newline="") as file:
        return [
            (
                int(row["Mig instance"]),
                int(row["Batch size"]),
                int(row["Workload Number"]),
                float(row["Throughput"]),
                float(row["Latency"]),
            )
            for row in csv.DictReader(file)
        ]


def read_scenarios(folder: Path, models: Sequence[str]) -> list[list[SliceDemand]]:
    """One list of demands per scenario; models that are not in it are left out."""
    with (
        (folder / "SLO_latency.csv").open(newline="") as latency,
        (folder / "SLO_req_rate.csv").open(newline="") as rate,
    ):
        return [
            [
                SliceDemand(model, float(per_s), float(slo_ms))
                for model, slo_ms, per_s in zip(models, objectives, rates, strict=True)
                if slo_ms.strip() != "N/A" and per_s.strip() != "N/A"
            ]
            for objectives, rates in zip(csv.reader(latency), csv.reader(rate), strict=True)
        ]


def violations(plan: SlicePlan, demands: Sequence[SliceDemand], rows: dict[str, list[Row]]) -> int:
    """Models short of rate or over latency, judged from the raw rows and the layout alone."""
    layouts: dict[int, list[SlicePosition]] = {}
    for placed in plan.slices:
        layouts.setdefault(placed.device, []).append(SlicePosition(placed.start, SliceSize(placed.setting.size)))
    if not all(legal(layout) for layout in layouts.values()):
        raise SystemExit("the plan has an illegal layout")
    carried: dict[str, float] = defaultdict(float)
    late: set[str] = set()
    objective = {demand.model: demand.objective_ms for demand in demands}
    for placed in plan.slices:
        key = (int(placed.setting.size), placed.setting.batch, placed.setting.processes)
        per_process, latency_s = next((row[3], row[4]) for row in rows[placed.model] if row[:3] == key)
        carried[placed.model] += per_process * placed.setting.processes
        if latency_s * 1000 > LATENCY_MARGIN * objective[placed.model] or per_process <= 0:
            late.add(placed.model)
    short = {demand.model for demand in demands if carried[demand.model] < demand.rate_per_s * (1 - RATE_TOLERANCE)}
    return len(short | late)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the ParvaGPU profile folder")
    parser.add_argument("--write", type=Path, help="also write parvagpu.json here")
    options = parser.parse_args()
    files = sorted(p for p in options.data.glob("*.csv") if not p.name.startswith("SLO_"))
    rows = {path.stem: read_rows(path) for path in files}
    profiles = {
        model: [SliceSetting(SliceSize(s), b, n, n * t, 1000 * lat) for s, b, n, t, lat in held if t > 0]
        for model, held in rows.items()
    }
    result: dict[str, list[int]] = {"gpus": [], "slices": [], "violations": []}
    scenarios = read_scenarios(options.data, [path.stem for path in files])
    for number, demands in enumerate(scenarios, 1):
        began = time.perf_counter()
        plan = plan_slices(demands, profiles)
        took_ms = 1000 * (time.perf_counter() - began)
        bad = violations(plan, demands, rows)
        for key, value in (("gpus", plan.devices), ("slices", plan.compute_slices), ("violations", bad)):
            result[key].append(value)
        published = PUBLISHED[number - 1] if number <= len(PUBLISHED) else "-"
        print(
            f"S{number}: {plan.devices} GPUs (ParvaGPU {published}, linear bound {plan.lower_bound}, "
            f"{'proven optimal' if plan.optimal else 'time limit'}), {plan.compute_slices} compute slices in "
            f"{len(plan.slices)} instances, {bad} violations, {took_ms:.0f} ms"
        )
    if options.write:
        (options.write / "parvagpu.json").write_text(json.dumps(result) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
