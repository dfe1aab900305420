"""The simulator's speed, and what the policies do on drawn mixes.

    python benchmarks/simulation.py [--requests 300000] [--mixes 20] [--write docs/results]

Speed: 100 devices of 40 GB, 300 models, 60 % load, gamma gaps of CV 1 and 4, latencies 5 to 40 ms with batch tables.
Mixes: 2 to 8 devices, models of 1 to 4 GB and 50 to 200 ms, objectives 2 to 10 x, CV 1 to 6, load 20 to 80 %; no
batching; swaps at 25 GB/s. `pipeline` is AlpaServe's idea without its search: every model cut over all devices in equal
stages, first come first served with admission, weights free of memory limits, communication free. The last line is
one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import planning
from loadgen.simulate import Arrivals, Outcome, PolicyName, make_policy, outcome
from loadgen.world import EPSILON_S, Hardware, World
from router.policy.catalog import ServedModel, Traffic, batch_times_s

Mix = tuple[list[ServedModel], list[Traffic], Hardware, Arrivals]


def gamma_arrivals(traffic: Sequence[Traffic], until_s: float, rng: np.random.Generator) -> Arrivals:
    """Renewal arrivals of the given rates and variations."""
    times, owners = [], []
    for model, held in enumerate(traffic):
        shape = 1 / held.cv**2
        gaps = rng.gamma(shape, 1 / (shape * held.rate_per_s), int(held.rate_per_s * until_s * 2 + 200))
        at = np.cumsum(gaps)
        at = at[at < until_s]
        times.append(at)
        owners.append(np.full(at.size, model))
    joined, owner = np.concatenate(times), np.concatenate(owners)
    order = np.argsort(joined, kind="stable")
    return Arrivals(joined[order].tolist(), owner[order].tolist())


def run(mix: Mix, policy: PolicyName, *, batching: bool = False) -> tuple[Outcome, int, float]:
    """Outcome, promises broken, and seconds of CPU."""
    models, traffic, hardware, arrivals = mix
    world = World(models, hardware, batching=batching)
    began = time.process_time()
    world.run(arrivals.seconds, arrivals.models, make_policy(policy, traffic))
    took_s = time.process_time() - began
    late = int(sum(finish > due for finish, due in zip(world.finish_s, world.deadline_s, strict=True)))
    return outcome(world, arrivals), late, took_s


def speed(requests: int, cv: float) -> dict[str, Any]:
    """Requests per second of CPU at a hundred devices."""
    rng = np.random.default_rng(1)
    latency = rng.choice([5.0, 10.0, 20.0, 40.0], 300)
    models = [
        ServedModel(f"m{i}", float(rng.choice([1, 2, 3])), batch_times_s(ms, {2: 1.4 * ms, 8: 3.8 * ms}), 0.005 * ms)
        for i, ms in enumerate(latency)
    ]
    weight = rng.pareto(1.5, 300) + 0.1
    weight /= weight.sum()
    total = 0.6 * 100 / float((weight * latency / 1000).sum())
    traffic = [Traffic(float(total * w), cv) for w in weight]
    mix = (models, traffic, Hardware(100, 40.0), gamma_arrivals(traffic, requests / total, rng))
    result, late, took_s = run(mix, PolicyName.PARTYWALL, batching=True)
    return {
        "cv": cv,
        "requests": result.requests,
        "per_cpu_second": round(result.requests / took_s),
        "attainment": round(result.attainment, 4),
        "admitted_late": late,
    }


def drawn(seed: int) -> Mix:
    """One mix."""
    rng = np.random.default_rng(seed)
    devices, memory_gb = int(rng.choice([2, 4, 4, 8])), float(rng.choice([4.5, 6.0, 8.5, 13.0]))
    scale, cv, load = float(rng.choice([2, 3, 5, 10])), float(rng.choice([1, 2, 4, 6])), float(rng.uniform(0.2, 0.8))
    sizes: list[tuple[float, float]] = []
    for _ in range(int(rng.choice([devices, 2 * devices, 3 * devices]))):
        size, ms = float(rng.choice([1, 2, 3, 4])), float(rng.choice([50, 100, 150, 200]))
        if sum(held for held, _ in sizes) + size <= 0.95 * devices * memory_gb:
            sizes.append((size, ms))
    models = [ServedModel(f"m{i}", gb, batch_times_s(ms), scale * ms / 1000) for i, (gb, ms) in enumerate(sizes)]
    weight = 1 / np.arange(1, len(models) + 1) ** float(rng.choice([0.0, 0.5, 1.0]))
    weight /= weight.sum()
    total = load * devices / sum(w * m.service_s[0] for w, m in zip(weight, models, strict=True))
    traffic = [Traffic(float(total * w), cv) for w in weight]
    return models, traffic, Hardware(devices, memory_gb), gamma_arrivals(traffic, 200.0, rng)


def pipeline(mix: Mix) -> float:
    """Attainment of equal-stage model parallelism over all devices."""
    models, _, hardware, arrivals = mix
    free = [0.0] * hardware.devices
    in_time = 0
    for at, model in zip(arrivals.seconds, arrivals.models, strict=True):
        stage_s = models[model].service_s[0] / hardware.devices
        now, ends = at, []
        for stage_free in free:
            now = max(now, stage_free) + stage_s
            ends.append(now)
        if now <= at + models[model].objective_s + EPSILON_S:
            free, in_time = ends, in_time + 1
    return in_time / len(arrivals.seconds)


def mixes(count: int) -> dict[str, Any]:
    """Mean attainment per policy over drawn mixes."""
    table: dict[str, list[float]] = {policy.value: [] for policy in PolicyName}
    table |= {"pipeline": [], "partywall, every model resident": []}
    late = 0
    for seed in range(count):
        mix = drawn(seed)
        for policy in PolicyName:
            result, broken, _ = run(mix, policy)
            table[policy.value].append(result.attainment)
            late += broken if policy is PolicyName.PARTYWALL else 0
        roomy = (mix[0], mix[1], Hardware(mix[2].devices, 1e4), mix[3])
        table["partywall, every model resident"].append(run(roomy, PolicyName.PARTYWALL)[0].attainment)
        table["pipeline"].append(pipeline(mix))
    ours = table[PolicyName.PARTYWALL.value]
    best = [max(held) for held in zip(*(table[p.value] for p in PolicyName), strict=True)]
    gaps = [mine - theirs for mine, theirs in zip(ours, best, strict=True)]
    means = {name: round(statistics.mean(values), 4) for name, values in table.items()}
    return {
        "mixes": count,
        "mean_attainment": means,
        "ours_best_of_policies": sum(gap >= -1e-9 for gap in gaps),
        "ours_within_0.005_of_the_best": sum(gap >= -0.005 for gap in gaps),
        "worst_gap": round(min(gaps), 4),
        "admitted_late": late,
    }


def measure() -> dict[str, Any]:
    """What `make bench` shows of the simulator and the planner: the slower of two runs, and the largest fleet."""
    rows = [speed(100_000, cv) for cv in (1.0, 4.0)]
    slower = min(rows, key=lambda row: int(row["per_cpu_second"]))
    plan = planning.measure(10_000)
    kept = ("devices", "ratio", "violations", "plan_s", "change_ms_p50", "change_ms_max", "planner_memory_mb")
    return {
        "devices": 100,
        "requests_per_cpu_s": slower["per_cpu_second"],
        "attainment": slower["attainment"],
        "admitted_late": sum(int(row["admitted_late"]) for row in rows),
        "plan": {"models": 10_000, **{name: plan[name] for name in kept}},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=300_000)
    parser.add_argument("--mixes", type=int, default=20)
    parser.add_argument("--write", type=Path, help="folder for simulation.json")
    options = parser.parse_args()
    result: dict[str, Any] = {"speed": [speed(options.requests, cv) for cv in (1.0, 4.0)]}
    for row in result["speed"]:
        print(row)
    result["drawn"] = mixes(options.mixes)
    for name, value in result["drawn"]["mean_attainment"].items():
        print(f"{name:36}{value:8.4f}")
    if options.write:
        (options.write / "simulation.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
