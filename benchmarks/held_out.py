"""Mixes that nothing here was chosen on: other seeds, sizes, latencies, skews and fleets than `simulation.py` draws.

Drawn: 3 to 6 devices of 5 to 16 GB; models of 0.5 to 6 GB, their latency 15 to 60 ms per GB, as many as fill 50 to 95 %
of all memory; objectives 2 to 8 x; CV 1 to 5, each model its own; popularity Zipf 0 to 1.2; load 25 to 75 %; half of
the models have measured batch latencies (a further request costs 30 to 90 % of the first), the others none.
`python benchmarks/alpaserve.py --held-out 16` runs them with and without batching and swaps.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.simulation import gamma_arrivals, pipeline
from loadgen.simulate import Arrivals, PolicyName, make_policy, outcome
from loadgen.world import Hardware, World
from router.policy.catalog import ServedModel, Traffic, batch_times_s

FIRST_SEED = 9_000
UNTIL_S = 150.0
SETTINGS: Mapping[str, Mapping[str, bool]] = {
    "no batching, swaps": {"batching": False, "swap": True},
    "batching, swaps": {"batching": True, "swap": True},
    "no batching, no swaps": {"batching": False, "swap": False},
}
Mix = tuple[list[ServedModel], list[Traffic], Hardware, Arrivals]


def drawn(seed: int) -> Mix:
    """One mix."""
    rng = np.random.default_rng(seed)
    devices, memory_gb = int(rng.integers(3, 7)), float(rng.uniform(5, 16))
    scale, fill = float(rng.uniform(2, 8)), float(rng.uniform(0.5, 0.95))
    models: list[ServedModel] = []
    left_gb = fill * devices * memory_gb
    while True:
        size_gb = float(np.exp(rng.uniform(np.log(0.5), np.log(min(6.0, memory_gb)))))
        if size_gb > left_gb:
            break
        left_gb -= size_gb
        ms = size_gb * float(rng.uniform(15, 60))
        further = float(rng.uniform(0.3, 0.9))
        table = {b: ms * (1 + further * (b - 1)) for b in (2, 4, 8)} if rng.random() < 0.5 else None
        models.append(ServedModel(f"m{len(models)}", size_gb, batch_times_s(ms, table), scale * ms / 1000))
    weight = rng.permutation(1 / np.arange(1, len(models) + 1) ** float(rng.uniform(0, 1.2)))
    weight /= weight.sum()
    total = (
        float(rng.uniform(0.25, 0.75)) * devices / sum(w * m.service_s[0] for w, m in zip(weight, models, strict=True))
    )
    traffic = [Traffic(float(total * w), float(rng.uniform(1, 5))) for w in weight]
    return models, traffic, Hardware(devices, memory_gb), gamma_arrivals(traffic, UNTIL_S, rng)


def attainment(mix: Mix, policy: PolicyName, switches: Mapping[str, bool]) -> float:
    """Requests in time / all."""
    models, traffic, hardware, arrivals = mix
    world = World(models, hardware, batching=switches["batching"], swap=switches["swap"])
    world.run(arrivals.seconds, arrivals.models, make_policy(policy, traffic))
    return outcome(world, arrivals).attainment


def run(count: int, first_seed: int = FIRST_SEED) -> dict[str, Any]:
    """Per setting: means of every policy, how often ours is best or within 0.005 of it, and the worst distance."""
    mixes = [drawn(first_seed + at) for at in range(count)]
    found: dict[str, Any] = {"mixes": count, "first_seed": first_seed}
    for title, switches in SETTINGS.items():
        rows = {policy.value: [attainment(mix, policy, switches) for mix in mixes] for policy in PolicyName}
        if not switches["batching"]:
            rows["pipeline over all devices, no overheads"] = [pipeline(mix) for mix in mixes]
        found[title] = _judged(rows)
        print(title, found[title], flush=True)
    return found


def _judged(rows: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    ours = rows[PolicyName.PARTYWALL.value]
    others = {name: held for name, held in rows.items() if name in set(PolicyName) - {PolicyName.PARTYWALL}}
    best = [max(held) for held in zip(*others.values(), strict=True)]
    gaps = [mine - theirs for mine, theirs in zip(ours, best, strict=True)]
    means = {name: round(statistics.mean(held), 4) for name, held in rows.items()}
    return {
        "mean_attainment": means,
        "at_least_best_of_each_mix_minus_0.005": sum(gap >= -0.005 for gap in gaps),
        "worst_gap": round(min(gaps), 4),
        "mean_at_least_best_mean": means[PolicyName.PARTYWALL.value] >= max(means[name] for name in others) - 0.005,
    }


def markdown(found: Mapping[str, Any]) -> str:
    """One table: policies by settings."""
    titles = [title for title in SETTINGS if title in found]
    names = list(dict.fromkeys(name for title in titles for name in found[title]["mean_attainment"]))
    lines = [
        "# Held-out mixes",
        "",
        f"Made by `python benchmarks/alpaserve.py --held-out {found['mixes']}`; what is drawn stands in",
        f"`benchmarks/held_out.py`. Mean attainment of {found['mixes']} mixes.",
        "",
        "| |" + "".join(f" {title} |" for title in titles),
        "|---" * (1 + len(titles)) + "|",
    ]
    for name in names:
        cells = [found[title]["mean_attainment"].get(name) for title in titles]
        lines.append(f"| {name} |" + "".join(f" {cell:.4f} |" if cell is not None else " |" for cell in cells))
    lines += [""] + [
        f"{title}: ours is the best policy, or within 0.005 of it, in "
        f"{found[title]['at_least_best_of_each_mix_minus_0.005']} of {found['mixes']} mixes; "
        f"worst gap {found[title]['worst_gap']:+.4f}."
        for title in titles
    ]
    return "\n".join(lines) + "\n"
