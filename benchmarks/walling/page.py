"""The verdict on the walls' rounds, and its page."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.walling.member import BATCH, LAYERS, NEIGHBOUR_THREADS, WIDTH
from benchmarks.walling.rounds import Round
from isolation.devices.cpu import cpu_device

WITH_WALLS_AT_MOST = 1.6
WITHOUT_AT_LEAST = 1.5  # times as much
HEADINGS = (
    "| round | alone ms | beside ms | slow-down with walls | free: alone ms | beside ms | slow-down without "
    "| strangers, cores |"
)


def report(
    calm: Sequence[Round], disturbed: Sequence[Round], wanted: int, load_before: float, seed: int, seconds: float
) -> dict[str, Any]:
    """The verdict is on undisturbed rounds if there are as many as were wanted, else on all and never `ok`."""
    enough = len(calm) >= wanted
    used = calm if enough else [*calm, *disturbed]
    walled, free = statistics.median(r.walled for r in used), statistics.median(r.free for r in used)
    return {
        "machine": {"cores": cpu_device().compute_units, "name": cpu_device().name, "load_before": load_before},
        "seed": seed,
        "seconds": seconds,
        "enough": enough,
        "undisturbed_rounds": len(calm),
        "disturbed_rounds": len(disturbed),
        "repeated_measurements": sum(r.repeated for r in [*calm, *disturbed]),
        "rounds": [asdict(r) | {"walled": r.walled, "free": r.free} for r in used],
        "median_slowdown_with_walls": walled,
        "median_slowdown_without": free,
        "ok": enough and walled <= WITH_WALLS_AT_MOST and free >= WITHOUT_AT_LEAST * walled,
    }


def as_page(result: dict[str, Any]) -> str:
    machine = result["machine"]
    conditions = (
        f"Made by `benchmarks/walls.py` on {machine['name']}, {machine['cores']} cores, load before the start "
        f"{machine['load_before']:.2f}; seed {result['seed']}, {result['seconds']} s a measurement. "
        f"Victim: {LAYERS} linear layers of {WIDTH}, batch {BATCH}, back to back. "
        f"Neighbour: {NEIGHBOUR_THREADS} threads multiplying matrices. Rounds without strangers on the machine: "
        f"{result['undisturbed_rounds']}; with: {result['disturbed_rounds']}; measurements made again because of them: "
        f"{result['repeated_measurements']}."
    )
    lines = [
        "# What a cpuset wall is worth",
        "",
        conditions,
        "",
        HEADINGS,
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for number, r in enumerate(result["rounds"], 1):
        lines.append(
            f"| {number} | {r['walled_alone_ms']:.2f} | {r['walled_beside_ms']:.2f} | {r['walled']:.2f} | "
            f"{r['free_alone_ms']:.2f} | {r['free_beside_ms']:.2f} | {r['free']:.2f} | "
            f"{r['strangers_cores']:.2f} |"
        )
    verdict = "met" if result["ok"] else "NOT met" if result["enough"] else "undecided (too few undisturbed rounds)"
    walled, free = result["median_slowdown_with_walls"], result["median_slowdown_without"]
    summary = (
        f"Median slow-down of p95: {walled:.2f} with walls, {free:.2f} without ({free / walled:.2f} times as much). "
        f"The goal (at most {WITH_WALLS_AT_MOST}, and at least {WITHOUT_AT_LEAST} times as much without) is {verdict}."
    )
    return "\n".join([*lines, "", summary, ""])
