"""The ground's results as a page and a plot."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

HEAD = """# Interference's ground

Made by `python benchmarks/interference_ground.py --seeds {seeds} --write docs/results`; its head says what is measured.
Load in devices (solo seconds asked per second, of four) at >= 99 % in time: median of the seeds, and the median over
seeds of ours / theirs.

![loads](interference-ground.svg)
"""


def markdown(result: Mapping[str, Any]) -> str:
    """Both tables."""
    truths: Mapping[str, Any] = result["truths"]
    head = "".join(f" {name} | ours / theirs |" for name in truths)
    lines = [HEAD.format(seeds=result["seeds"]), "| |" + head, "|---" * (1 + 2 * len(truths)) + "|"]
    for player in next(iter(truths.values()))["median_load"]:
        cells = []
        for held in truths.values():
            ratio = held["median_ratio_ours_over"].get(player)
            cells += [f"{held['median_load'][player]:.2f}", f"{ratio:.2f}" if ratio else ""]
        lines.append(f"| {player} | " + " | ".join(cells) + " |")
    loads = next(iter(result["victims"].values()))
    lines += [
        "",
        "## What victims see",
        "",
        "p99 of served requests / solo latency (median tenant, worst tenant), and the part of requests in time at 2 x",
        "solo. Three tenants' processes share each device, by the recorded table; nobody is refused there.",
        "",
        "| |" + "".join(f" load {load} |" for load in loads),
        "|---" * (1 + len(loads)) + "|",
    ]
    for name, by_load in result["victims"].items():
        cells = []
        for seen in by_load.values():
            tails = seen["p99_over_solo_median_tenant"], seen["p99_over_solo_worst_tenant"]
            cells.append(f"{tails[0]:.1f}, {tails[1]:.1f}; {seen['attainment']:.3f}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def plot(result: Mapping[str, Any], path: Path) -> None:
    """Loads of all seeds as boxes."""
    from matplotlib.figure import Figure

    truths = result["truths"]
    figure = Figure(figsize=(3.6 * len(truths) + 1.4, 3.4), layout="constrained")
    for axes, (name, held) in zip(figure.subplots(1, len(truths), sharey=True), truths.items(), strict=True):
        loads = held["load_in_devices"]
        axes.boxplot(list(loads.values()), orientation="horizontal", tick_labels=list(loads), widths=0.6)
        axes.set_xlabel("load in time, devices of 4")
        axes.set_title(name, fontsize="medium")
        axes.set_xlim(left=0)
        axes.grid(axis="x", alpha=0.3)
    figure.savefig(path, format="svg")
