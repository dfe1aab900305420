"""Interference's ground: how much load twelve tenants may put on four GPUs that slow each other.

    python benchmarks/interference_ground.py [--seeds 20] [--requests 4000] [--write docs/results]

Twelve tenants draw their models from the data set, with parts of the load drawn lognormal and Poisson arrivals; the
objective is twice the solo latency on a whole device; weights fit everywhere, batches hold one request. A seed's load
is bisected for the highest at which at least 99 % of all requests are in time. Load is in devices: solo seconds asked
per second. Two truths: hidden phases (`benchmarks/ground/truths.py`; the predictor knows profiles, and co-runs of other
models only) and the recorded H100 table (the predictor learned from the co-runs of half of the models).

`one model per GPU` serves its four busiest tenants and is charged with their requests only; `one model at a time per
GPU` gives every tenant a home device, with our queue. The second table is what victims see when three tenants'
processes share a device without caps, or in time slices without MPS, by the recorded table. The last line is one JSON
object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.ground.pages import markdown, plot
from benchmarks.ground.policies import GPULET, ONE_AT_A_TIME, ONE_MODEL, OURS, PLAYERS, OwnProcesses, Player
from benchmarks.ground.predictor import Known, from_table, from_truth
from benchmarks.ground.scenario import DEVICES, HARDWARE, OBJECTIVE, TENANTS, Scenario
from benchmarks.ground.truths import GroundPace, RecordedGround, hidden_truth
from isolation.interference import dataset
from isolation.interference.dataset import Measurements
from isolation.interference.simulated import SlowdownTruth
from loadgen.simulate import Arrivals, outcome
from loadgen.world import SchedulingPolicy, World
from partywall.domain.profiles import Resident

DATA = Path(__file__).parent / "data" / "h100-colocation.json"
TARGET = 0.99
LEAST, MOST, STEPS = 0.04, 4.0, 7
"""Bracket of the loads in devices, and halvings of its logarithm: 4 % apart."""
VICTIM_LOADS = (0.5, 1.0, 1.5)
BARS = {ONE_MODEL: 1.5, ONE_AT_A_TIME: 1.5, GPULET: 1.2}


@dataclass(slots=True)
class Ground:
    """One truth with what may be known of it."""

    data: Measurements
    known: Known
    truth: SlowdownTruth
    objective: float = OBJECTIVE
    answers: dict[tuple[Resident, ...], tuple[float, ...]] = field(default_factory=dict)

    def run(self, scenario: Scenario, arrivals: Arrivals, policy: SchedulingPolicy) -> World:
        pace = GroundPace(self.truth, scenario.names, self.known.solo_s, self.answers)
        world = World(scenario.models, HARDWARE, batching=False, swap=False, pace=pace)
        world.run(arrivals.seconds, arrivals.models, policy)
        return world

    def carried(self, player: Player, name: str) -> float:
        """The highest load in time, in devices; zero when not even the least is."""
        scenario = player.scenario
        hosted = None
        if name == ONE_MODEL:
            hosted = frozenset(sorted(range(TENANTS), key=lambda t: -scenario.part[t])[:DEVICES])
        low, high, found = LEAST, MOST, 0.0
        for _ in range(STEPS):
            load = (low * high) ** 0.5
            arrivals = scenario.arrivals(load, hosted)
            world = self.run(scenario, arrivals, PLAYERS[name](player, load))
            if outcome(world, arrivals).attainment >= TARGET:
                low = found = load
            else:
                high = load
        return found * (sum(scenario.part[t] for t in hosted) if hosted else 1.0)


def play(ground: Ground, seeds: Sequence[int], requests: int) -> dict[str, Any]:
    """Loads per player and seed, and their ratios to ours."""
    loads: dict[str, list[float]] = {name: [] for name in PLAYERS}
    plans = []
    for seed in seeds:
        scenario = Scenario.draw(seed, ground.data.models, ground.known.solo_s, requests, ground.objective)
        player = Player(scenario, ground.known)
        for name in PLAYERS:
            loads[name].append(round(ground.carried(player, name), 4))
        ours = loads[OURS][-1]
        plans.append(next((p.reason for at, p in player.plans.items() if abs(at - ours) < 1e-3), ""))
        print(f"seed {seed:2}  " + "  ".join(f"{name} {held[-1]:.2f}" for name, held in loads.items()), flush=True)
    ratios = {name: statistics.median(_ratios(loads[OURS], loads[name])) for name in PLAYERS if name != OURS}
    return {
        "load_in_devices": loads,
        "median_load": {name: round(statistics.median(held), 3) for name, held in loads.items()},
        "median_ratio_ours_over": {name: round(ratio, 2) for name, ratio in ratios.items()},
        "bars": {name: {"at_least": bar, "holds": ratios[name] >= bar} for name, bar in BARS.items()},
        "plans_at_that_load": plans,
    }


def _ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """A player that carries nothing is counted as carrying the least load tried."""
    return [mine / max(other, LEAST) for mine, other in zip(ours, theirs, strict=True)]


def victims(data: Measurements, sliced: Mapping[tuple[str, str], float], seeds: Sequence[int], requests: int) -> Any:
    """p99 latency / solo of served requests: median tenant and worst tenant, median of the seeds."""
    known = from_table(data, 0)
    capped = Ground(data, known, RecordedGround(data))
    others = {
        "MPS without caps": Ground(data, known, RecordedGround(data, uncapped=True)),
        "time slices, no MPS": Ground(data, known, RecordedGround(data, sliced=sliced)),
    }
    table: dict[str, dict[str, Any]] = {}
    for load in VICTIM_LOADS:
        found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in (*others, OURS)}
        for seed in seeds:
            scenario = Scenario.draw(seed, data.models, known.solo_s, requests)
            player, arrivals = Player(scenario, known), scenario.arrivals(load)
            for name, ground in others.items():
                found[name].append(
                    _seen(scenario, arrivals, ground.run(scenario, arrivals, OwnProcesses(player.homes())))
                )
            found[OURS].append(_seen(scenario, arrivals, capped.run(scenario, arrivals, PLAYERS[OURS](player, load))))
        for name, rows in found.items():
            middle = [round(statistics.median(column), 3) for column in zip(*rows, strict=True)]
            table.setdefault(name, {})[f"{load:g}"] = dict(
                zip(("p99_over_solo_median_tenant", "p99_over_solo_worst_tenant", "attainment"), middle, strict=True)
            )
    return table


def _seen(scenario: Scenario, arrivals: Arrivals, world: World) -> tuple[float, float, float]:
    finish, at = np.array(world.finish_s), np.array(arrivals.seconds)
    owner = np.array(arrivals.models)
    tails = [
        float(np.quantile((finish - at)[(owner == t) & (finish >= 0)], 0.99)) / scenario.models[t].service_s[0]
        for t in range(TENANTS)
        if ((owner == t) & (finish >= 0)).any()
    ]
    return statistics.median(tails), max(tails), outcome(world, arrivals).attainment


def sliced_pairs(path: Path) -> dict[tuple[str, str], float]:
    """Slowdown of the first beside the second, both on the whole device without MPS."""
    raw = json.loads(path.read_text())["time_sliced_no_mps"]
    found: dict[tuple[str, str], float] = {}
    for key, partners in raw["co"].items():
        names = key.split("+")
        for victim, other, entry in zip(names, reversed(names), partners, strict=True):
            found[victim, other] = max(entry["mean"] / raw["solo"][victim]["mean"], 1.0)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--requests", type=int, default=4000)
    parser.add_argument("--truth-seed", type=int, default=0, help="draws the hidden truth and what is learned from")
    parser.add_argument("--write", type=Path, help="folder for interference-ground.{json,md,svg}")
    options = parser.parse_args()
    began = time.monotonic()
    data, seeds = dataset.load(DATA), range(options.seeds)
    truth = hidden_truth(data, options.truth_seed)
    known = from_truth(truth, data.models, options.truth_seed)
    looser = range(max(1, options.seeds // 2))
    grounds = {
        "hidden": (Ground(data, known, truth), seeds),
        "recorded": (Ground(data, from_table(data, options.truth_seed), RecordedGround(data)), seeds),
        "hidden, objective 4 x solo": (Ground(data, known, truth, 4.0), looser),
    }
    result: dict[str, Any] = {"seeds": options.seeds, "requests": options.requests, "truths": {}}
    for name, (ground, drawn) in grounds.items():
        print(f"-- {name}")
        result["truths"][name] = play(ground, drawn, options.requests)
    result["victims"] = victims(data, sliced_pairs(DATA), seeds, options.requests)
    result["seconds"] = round(time.monotonic() - began)
    if options.write:
        (options.write / "interference-ground.json").write_text(json.dumps(result, indent=1) + "\n")
        (options.write / "interference-ground.md").write_text(markdown(result))
        plot(result, options.write / "interference-ground.svg")
    short = {
        name: {k: held[k] for k in ("median_load", "median_ratio_ours_over", "bars")}
        for name, held in result["truths"].items()
    }
    print(json.dumps({**short, "victims": result["victims"], "seconds": result["seconds"]}))


if __name__ == "__main__":
    main()
