"""Fairness live: what a tenant that offers ten times its share does to another's tail, on real processes.

    python benchmarks/fairness.py [--rounds 7] [--seconds 12] [--write docs/results]

Two tenants of one trust group (policy `shared`) have a model each in one worker on one core of its own; a batch holds
one request of 64 rows (about 20 ms). Each round measures both models alone, then plays two arms on the same seeded
arrivals, in alternating order: `acme` offers 30 % of the core in both; `globex` offers its share, 50 %, or ten times as
much. Deadlines are 50 service times. The last line is one JSON object; `moved` is acme's p95 beside the flood over that
beside the calm neighbour, within a round.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.dataplane.processes import busy_s, machine
from benchmarks.live.site import Perceptron, Site, site
from loadgen.arrivals import Poisson, rng_for
from loadgen.results import Fate, Requests

MINE = Perceptron("acme", "acme-model", 1024, 12, 64)
THEIRS = Perceptron("globex", "globex-model", 1024, 12, 64)
LOAD, SHARE, FLOOD = 0.3, 0.5, 10.0
DEADLINE_SERVICES = 50
BAR = 1.25
ARMS = {"calm": SHARE, "flood": SHARE * FLOOD}


@dataclass(frozen=True, slots=True)
class Seen:
    """One tenant in one arm."""

    p50_ms: float
    p95_ms: float
    served: int
    planned: int

    @classmethod
    def of(cls, requests: Requests) -> Seen:
        served = requests.fate == Fate.SERVED
        latency_ms = requests.latency_s[served] * 1e3
        if not latency_ms.size:
            return cls(float("nan"), float("nan"), 0, len(served))
        p50, p95 = np.quantile(latency_ms, [0.5, 0.95])
        return cls(round(float(p50), 2), round(float(p95), 2), int(served.sum()), len(served))


async def one_round(place: Site, number: int, seconds: float, seed: int) -> dict[str, Any]:
    """Calibration and both arms."""
    service_s = {m.name: (await place.closed(m, 1.5)).p50_ms / 1e3 for m in (MINE, THEIRS)}
    deadline_s = {name: DEADLINE_SERVICES * took for name, took in service_s.items()}
    mine = Poisson(LOAD / service_s[MINE.name]).times_s(rng_for(seed + number, "acme"), seconds)
    found: dict[str, Any] = {"service_ms": {name: round(1e3 * took, 2) for name, took in service_s.items()}}
    for arm in (list(ARMS), list(reversed(ARMS)))[number % 2]:
        theirs = Poisson(ARMS[arm] / service_s[THEIRS.name]).times_s(rng_for(seed + number, arm), seconds)
        before = busy_s()
        tables = await place.open([(MINE, mine), (THEIRS, theirs)], deadline_s)
        found[arm] = {
            "acme": Seen.of(tables[0]),
            "globex": Seen.of(tables[1]),
            "machine_busy_cores": round((busy_s() - before) / seconds, 2),
        }
        await asyncio.sleep(0.5)
    calm, flood = found["calm"]["acme"], found["flood"]["acme"]
    found["moved"] = round(flood.p95_ms / calm.p95_ms, 3)
    found["acme_served"] = round(flood.served / max(1, flood.planned), 4)
    found["globex_core"] = round(found["flood"]["globex"].served * service_s[THEIRS.name] / seconds, 3)
    return found


async def measure(place: Site, rounds: int, seconds: float, seed: int) -> list[dict[str, Any]]:
    """All rounds on one instance; a line is printed after each."""
    for model in (MINE, THEIRS):
        await place.closed(model, 2.0)
    found = []
    for number in range(rounds):
        found.append(await one_round(place, number, seconds, seed))
        calm, flood = found[-1]["calm"]["acme"], found[-1]["flood"]["acme"]
        print(
            f"round {number + 1}: acme p95 {calm.p95_ms:.1f} -> {flood.p95_ms:.1f} ms (x {found[-1]['moved']:.2f}), "
            f"served {found[-1]['acme_served']:.1%}; globex used {found[-1]['globex_core']:.0%} of the core",
            flush=True,
        )
    return found


def summary(rounds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Medians of the rounds."""
    moved = statistics.median(r["moved"] for r in rounds)
    served = statistics.median(r["acme_served"] for r in rounds)
    return {
        "rounds": len(rounds),
        "moved": round(moved, 3),
        "moved_range": [min(r["moved"] for r in rounds), max(r["moved"] for r in rounds)],
        "acme_served_beside_flood": served,
        "globex_core_in_flood": statistics.median(r["globex_core"] for r in rounds),
        "holds": moved <= BAR and served >= 0.99,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=12.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--write", type=Path, help="folder for fairness.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, site(Path(folder), (MINE, THEIRS)) as place:
        rounds = asyncio.run(measure(place, options.rounds, options.seconds, options.seed))
    result = summary(rounds)
    if options.write:
        raw = {**result, "machine": machine(), "seed": options.seed, "each": rounds}
        text = json.dumps(raw, indent=1, default=lambda held: {k: getattr(held, k) for k in held.__dataclass_fields__})
        (options.write / "fairness.json").write_text(text + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
