"""How steady the CPU probes are on this machine, and how steady a co-run's slowdown is: spread between repeats.

Two figures per probe: its unit alone, over repeats, and its slowdown beside another probe on other cores, over
repeats of a whole run (interleaved rounds, as the profiler takes them). Spread is the distance between the quartiles
/ the median, and in brackets from least to most. Wants a quiet machine with at least two cores.

    python benchmarks/probe_repeatability.py [--runs 7] [--out docs/results/probes]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from isolation.interference.probes import ProbeProcess, Progress
from isolation.interference.rounds import FULL, relative_spread
from partywall.domain.profiles import ProbeSetting, Resource
from partywall.errors import Unsupported

RESOURCES = (Resource.MEMORY_BANDWIDTH, Resource.LLC, Resource.RANDOM)


@dataclass(frozen=True, slots=True)
class Steadiness:
    """Medians and spreads of one probe. `beside` is its slowdown beside itself."""

    probe: str
    unit_ms: float
    unit_spread: float
    unit_range: float
    beside: float
    beside_spread: float
    beside_range: float


def measure(runs: int, cores: Sequence[int], rounds: int) -> list[Steadiness]:
    """One row per probe."""
    if len(cores) < 2:
        raise Unsupported("probes beside each other need two cores")
    found = []
    for resource in RESOURCES:
        setting = ProbeSetting(resource)
        with (
            ProbeProcess(setting, cores[:1], paused=True) as one,
            ProbeProcess(setting, cores[-1:], paused=True) as two,
        ):
            units, ratios = [], []
            _window(two)
            for _ in range(runs):
                taken = [_round(one, two) for _ in range(rounds)]
                units.append(sorted(alone for alone, _ in taken)[rounds // 2])
                ratios.append(sorted(beside / alone for alone, beside in taken)[rounds // 2])
        found.append(
            Steadiness(
                setting.name,
                _middle(units),
                relative_spread(units),
                _range(units),
                _middle(ratios),
                relative_spread(ratios),
                _range(ratios),
            )
        )
    return found


def _round(one: ProbeProcess, two: ProbeProcess) -> tuple[float, float]:
    """A unit of `two` alone, and beside `one`; alone is the mean of before and after."""
    before = _window(two).unit_ms
    one.resume()
    beside = _window(two).unit_ms
    one.pause()
    after = _window(two).unit_ms
    return (before * after) ** 0.5, beside


def _window(probe: ProbeProcess) -> Progress:
    probe.resume()
    time.sleep(FULL.window_s)
    return probe.pause()


def _middle(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]


def _range(values: Sequence[float]) -> float:
    return (max(values) - min(values)) / _middle(values)


def page(rows: Sequence[Steadiness], runs: int) -> str:
    """The table as Markdown."""
    lines = [
        "# CPU probes: repeatability",
        "",
        f"{runs} runs of {FULL.rounds} interleaved rounds with windows of {FULL.window_s:g} s, two cores, by",
        "`python benchmarks/probe_repeatability.py --out docs/results/probes`. Spread: between the quartiles / median,",
        "in brackets from least to most. A spread far above a few percent says that the machine was not quiet.",
        "",
        "| probe | unit, ms | spread | slowdown beside itself | spread |",
        "| --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {r.probe} | {r.unit_ms:.3f} | {r.unit_spread:.1%} ({r.unit_range:.1%}) | {r.beside:.3f} | "
        f"{r.beside_spread:.1%} ({r.beside_range:.1%}) |"
        for r in rows
    ]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=7, help="repeats of a whole run")
    parser.add_argument("--out", type=Path, help="where OUT.json and OUT.md go")
    options = parser.parse_args(arguments)
    rows = measure(options.runs, sorted(os.sched_getaffinity(0)), FULL.rounds)
    text = page(rows, options.runs)
    print(text)
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.with_suffix(".json").write_text(json.dumps([asdict(r) for r in rows], indent=2) + "\n")
        options.out.with_suffix(".md").write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
