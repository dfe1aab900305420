"""The forecast, judged by pinball loss against naive ones, one interval ahead.

    python benchmarks/forecast.py [--data DIR] [--write docs/results]

Counts are forecast one interval ahead at the 50th and 95th percentile. Naive is the last value again; `naive + errors`
adds the empirical quantile of its own past errors, which is what a careful naive bound would do; `season ago` is the
value one season before. Synthetic counts, 20 seeds: a daily wave, a flat rate, hourly spikes, a growing wave, and
bursts (five times the rate for a tenth of the time). DIR holds the Azure LLM traces of 2023 (an hour each, no season),
counted in intervals of ten seconds. Losses are relative to naive's; below one is better. The last line is one JSON
object.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from loadgen.traces import read_trace
from router.policy.forecast import Forecaster, ForecastSettings, pinball_loss

SEASON, SEASONS = 144, 10
QUANTILES = (0.5, 0.95)
REMEMBERED = 512
INTERVAL_S = 10.0
SEEDS = 20


def daily(at: int, rng: np.random.Generator) -> float:
    return 60 + 50 * math.sin(2 * math.pi * at / SEASON)


def flat(at: int, rng: np.random.Generator) -> float:
    return 40.0


def spikes(at: int, rng: np.random.Generator) -> float:
    return 120.0 if at % (SEASON // 24) == 0 else 20.0


def growing(at: int, rng: np.random.Generator) -> float:
    return (40 + 30 * math.sin(2 * math.pi * at / SEASON)) * (1 + at / (SEASON * SEASONS))


def bursts(at: int, rng: np.random.Generator) -> float:
    """Five times the rate for a tenth of the time, in runs of twenty intervals whose places nobody knows."""
    return 125.0 if np.random.default_rng(at // 20 + 10_000).random() < 0.1 else 25.0


SHAPES: dict[str, Callable[[int, np.random.Generator], float]] = {
    "daily wave": daily,
    "flat": flat,
    "spikes": spikes,
    "growing wave": growing,
    "bursts": bursts,
}


def counts_of(shape: Callable[[int, np.random.Generator], float], seed: int) -> list[float]:
    """Poisson counts of a shape."""
    rng = np.random.default_rng(seed)
    return [float(rng.poisson(shape(at, rng))) for at in range(SEASON * SEASONS)]


def judge(counts: Sequence[float], season: int, quantile: float) -> dict[str, float]:
    """Pinball losses from the third season on, or the last two thirds where there is no season."""
    first = 2 * season if season > 1 else len(counts) // 3
    forecaster = Forecaster(ForecastSettings(season=season, quantile=quantile))
    errors: deque[float] = deque(maxlen=REMEMBERED)
    made: dict[str, list[float]] = {"ours": [], "naive": [], "naive + errors": []}
    if season > 1:
        made["season ago"] = []
    for at, count in enumerate(counts):
        if at >= first:
            forecast, last = forecaster.next(), counts[at - 1]
            made["ours"].append(forecast.upper if quantile > 0.5 else forecast.mean)
            made["naive"].append(last)
            made["naive + errors"].append(last + float(np.quantile(errors, quantile)))
            if season > 1:
                made["season ago"].append(counts[at - season])
        if at:
            errors.append(count - counts[at - 1])
        forecaster.observe(count)
    return {name: pinball_loss(list(counts[first:]), held, quantile) for name, held in made.items()}


def relative(losses: Sequence[dict[str, float]]) -> dict[str, float]:
    """Medians of losses over naive's."""
    return {
        name: round(statistics.median(loss[name] / loss["naive"] for loss in losses), 3)
        for name in losses[0]
        if name != "naive"
    }


def recorded(folder: Path) -> dict[str, list[float]]:
    """Counts of each trace in the folder."""
    found = {}
    for path in sorted(folder.glob("*.csv")):
        times_s = np.asarray(read_trace(path).times_s)
        bins = int((times_s[-1] - times_s[0]) / INTERVAL_S)
        held, _ = np.histogram(times_s - times_s[0], bins=bins, range=(0, bins * INTERVAL_S))
        found[path.stem] = held.astype(float).tolist()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder of the Azure LLM traces")
    parser.add_argument("--write", type=Path, help="folder for forecast.json")
    options = parser.parse_args()
    result: dict[str, Any] = {"seeds": SEEDS, "loss_over_naive": {}}
    for quantile in QUANTILES:
        table = {
            name: relative([judge(counts_of(shape, seed), SEASON, quantile) for seed in range(SEEDS)])
            for name, shape in SHAPES.items()
        }
        for name, counts in recorded(options.data).items() if options.data else ():
            table[name] = relative([judge(counts, 1, quantile)])
        result["loss_over_naive"][f"{quantile:g}"] = table
        for name, losses in table.items():
            print(
                f"quantile {quantile:g}  {name:28}" + "".join(f"{k} {v:.3f}  " for k, v in losses.items()), flush=True
            )
    if options.write:
        (options.write / "forecast.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
