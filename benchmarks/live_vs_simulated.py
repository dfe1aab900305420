"""Live = simulated: one scenario on real processes, and in the simulator from its measured profiles.

    python benchmarks/live_vs_simulated.py [--rounds 7] [--seconds 15] [--write docs/results]

One core of its own serves two models of one trust group in one worker, each of its own tenant: `small` (about 4 ms a
request of 32 rows, up to four requests a batch) and `large` (about 15 ms, one a batch). Arrivals are gamma with CV 2,
objectives six times a single request, sent as deadlines, so that admission refuses and the queue drops. Together they
ask for `LOADS` of the core. A round profiles both models (batches of one to four, taking turns), draws arrivals, plays
them live, profiles again, and plays the very arrivals in the simulator, whose objects are the router's
`routing.choose` and the agent's `WorkQueue`, with the service times of both profiles' mean: a shared machine's speed
drifts by a tenth within a round, and one profile alone is off by that. Service times are the worker's own word
(`partywall requests list`): a caller's latency holds the road too, which other requests do not wait for. The road is
what a calm open loop shows beside waiting and service; half of it lies before the worker, half behind, so a reply may
come late that admission thought in time, and the simulated router hears of a batch's end as much later. The turnaround
between two batches keeps the worker from its next one. The last line is one JSON object of medians over the rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.dataplane.processes import busy_s, machine
from benchmarks.live.measured import MODELS, PART, Profiled, Way, between, profile
from benchmarks.live.site import Site, site
from loadgen.arrivals import FloatArray, Gamma, rng_for
from loadgen.as_served import AsServed
from loadgen.results import Fate, Requests
from loadgen.world import Hardware, World
from router.policy.catalog import ServedModel, Traffic

LOADS = (0.5, 0.8)
CV, OBJECTIVE = 2.0, 6.0
POINTS, RATIO = 0.03, (0.8, 1.25)


@dataclass(frozen=True, slots=True)
class Result:
    """Part of all requests in time, and p95 of those served."""

    attainment: float
    p95_ms: float


def simulate(
    profiles: Mapping[str, Profiled], way: Way, objective_s: Mapping[str, float], arrivals: Sequence[FloatArray]
) -> Result:
    """The same arrivals on one simulated device, which is busy for the gap with each batch beside its service time."""
    beside_s = way.outside_s - way.gap_s
    behind_s = way.outside_s / 2
    limit_s = np.array([objective_s[m.name] for m in MODELS])
    served = [
        ServedModel(m.name, 0.1, tuple(s + way.gap_s for s in profiles[m.name].batch_s), float(within_s))
        for m, within_s in zip(MODELS, limit_s - (beside_s - behind_s), strict=True)
    ]
    seconds = np.concatenate(arrivals)
    owners = np.concatenate([np.full(len(times), at) for at, times in enumerate(arrivals)])
    order = np.argsort(seconds, kind="stable")
    seconds, owners = seconds[order], owners[order]
    scatter = statistics.mean(p.scatter for p in profiles.values())
    world = World(served, Hardware(1, 4.0), swap=False, noise=scatter, wake_s=way.wake_s, seed=1)
    traffic = [Traffic(len(times) / max(float(seconds[-1]), 1e-9), CV) for times in arrivals]
    policy = AsServed(traffic, [m.tenant for m in MODELS], reply_s=behind_s)
    world.run(seconds.tolist(), owners.tolist(), policy)
    finish = np.array(world.finish_s)
    done = finish >= 0
    latency_s = (finish - seconds)[done] + beside_s
    return Result(float((latency_s <= limit_s[owners[done]] + 1e-9).sum() / len(finish)), _p95_ms(latency_s))


def live(tables: Sequence[Requests], objective_s: Mapping[str, float]) -> Result:
    """What the clients saw."""
    in_time, total, latencies = 0, 0, []
    for table in tables:
        served = table.fate == Fate.SERVED
        latencies.append(table.latency_s[served])
        in_time += int((latencies[-1] <= objective_s[table.name]).sum())
        total += len(table)
    return Result(in_time / max(1, total), _p95_ms(np.concatenate(latencies)))


def _p95_ms(latency_s: FloatArray) -> float:
    return float(np.quantile(latency_s, 0.95)) * 1e3 if latency_s.size else math.nan


async def one_round(place: Site, number: int, load: float, seconds: float, seed: int) -> dict[str, Any]:
    """Profile, draw, play live, profile again, and play in the simulator."""
    before = profiles, way = await profile(place)
    single_s = {m.name: profiles[m.name].batch_s[0] for m in MODELS}
    objective_s = {name: OBJECTIVE * took + way.outside_s for name, took in single_s.items()}
    arrivals = [
        Gamma(load * PART[m.name] / single_s[m.name], CV).times_s(rng_for(seed + number, m.name), seconds)
        for m in MODELS
    ]
    began = busy_s()
    tables = await place.open(list(zip(MODELS, arrivals, strict=True)), objective_s)
    real, busy = live(tables, objective_s), (busy_s() - began) / seconds
    profiles, way = between(before, await profile(place))
    made = simulate(profiles, way, objective_s, arrivals)
    return {
        "load": load,
        "requests": sum(map(len, arrivals)),
        "batch_ms": {name: [round(1e3 * s, 2) for s in held.batch_s] for name, held in profiles.items()},
        "scatter": {name: held.scatter for name, held in profiles.items()},
        "outside_ms": round(1e3 * way.outside_s, 2),
        "gap_ms": round(1e3 * way.gap_s, 2),
        "wake_ms": round(1e3 * way.wake_s, 2),
        "machine_busy_cores": round(busy, 2),
        "live": {"attainment": round(real.attainment, 4), "p95_ms": round(real.p95_ms, 2)},
        "simulated": {"attainment": round(made.attainment, 4), "p95_ms": round(made.p95_ms, 2)},
    }


def summary(rounds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Medians by load, and whether both bars hold at each."""
    found: dict[str, Any] = {"rounds": len({r["round"] for r in rounds})}
    for load in sorted({r["load"] for r in rounds}):
        held = [r for r in rounds if r["load"] == load]
        gap = statistics.median(r["simulated"]["attainment"] - r["live"]["attainment"] for r in held)
        ratio = statistics.median(r["simulated"]["p95_ms"] / r["live"]["p95_ms"] for r in held)
        found[f"load {load:g}"] = {
            **{
                f"{side}_{what}": round(statistics.median(r[side][what] for r in held), 4)
                for side in ("live", "simulated")
                for what in ("attainment", "p95_ms")
            },
            "attainment_gap": round(gap, 4),
            "p95_ratio": round(ratio, 3),
            "holds": abs(gap) <= POINTS and RATIO[0] <= ratio <= RATIO[1],
        }
    return found


def markdown(result: Mapping[str, Any]) -> str:
    """The medians as a table."""
    lines = [
        "# Live = simulated",
        "",
        f"Made by `python benchmarks/live_vs_simulated.py --rounds {result['rounds']}`; its head says what is played.",
        "Medians of the rounds; bars: attainment within 3 points, p95 within 0.8 to 1.25.",
        "",
        "| load | in time, live | simulated | gap | p95 live, ms | simulated | ratio |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, held in result.items():
        if name.startswith("load"):
            lines.append(
                f"| {name[5:]} | {held['live_attainment']:.3f} | {held['simulated_attainment']:.3f} | "
                f"{held['attainment_gap']:+.3f} | {held['live_p95_ms']:.1f} | {held['simulated_p95_ms']:.1f} | "
                f"{held['p95_ratio']:.2f} |"
            )
    return "\n".join(lines) + "\n"


async def measure(place: Site, rounds: int, seconds: float, seed: int) -> list[dict[str, Any]]:
    """Rounds with the loads in turn."""
    for model in MODELS:
        await place.closed(model, 2.0)
    found = []
    for number in range(rounds):
        for load in LOADS if number % 2 == 0 else LOADS[::-1]:
            row = {"round": number, **await one_round(place, number, load, seconds, seed)}
            found.append(row)
            print(f"round {number + 1}, load {load:g}: live {row['live']}, simulated {row['simulated']}", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--write", type=Path, help="folder for live-vs-simulated.{json,md}")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, site(Path(folder), MODELS) as place:
        rounds = asyncio.run(measure(place, options.rounds, options.seconds, options.seed))
    result = summary(rounds)
    if options.write:
        here = machine()
        raw = {**result, "cores": here.cores, "cpu": here.cpu, "seed": options.seed, "each": rounds}
        (options.write / "live-vs-simulated.json").write_text(json.dumps(raw, indent=1) + "\n")
        (options.write / "live-vs-simulated.md").write_text(markdown(result))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
