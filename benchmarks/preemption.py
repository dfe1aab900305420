"""What preemption between batches would bring: bursts of a small urgent model behind batches of a large one.

    python benchmarks/preemption.py [--seconds 120] [--seeds 5] [--write docs/results]

One device, one worker with two replicas of one tenant, on the live path's own objects (`loadgen/as_served.py`); the
queue drops what has become late. The large model takes 100 ms, eight at once 450 ms, with an objective of 1.5 s,
Poisson; the small one 1 or 4 ms with an objective of 5 or 25 times that, in bursts (gamma gaps, CV 4), 15 % load. Arms:

- `ahead`: while a batch of less than 2 ms runs, the worker is given the next one, as the agent does, and keeps it;
- `recalled`: nothing is sent ahead, as if everything that has not begun could be taken back;
- `chunks`: `ahead`, and the large model runs one request at a time;
- `abandoned`: SHEPHERD's rule with lambda 3.03: where that many times as many small requests as run large ones would
  be late, the running batch is lost and repeated. No worker can do that;
- `refusing`: `ahead`, and the router refuses what it predicts to be late, as it does unless told otherwise.

The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.simulation import gamma_arrivals
from loadgen.as_served import AsServed
from loadgen.world import Batch, Hardware, World
from node_agent.queueing import Queued
from router.policy.catalog import ServedModel, Traffic
from router.policy.routing import RoutingLimits

LAMBDA = 3.03
AHEAD_BELOW_S = 0.002
SMALL, LARGE = 0, 1
ARMS = ("ahead", "recalled", "chunks", "abandoned", "refusing")


class Ahead(AsServed):
    """The worker is given its next batch while the one that runs is short; what it has been given stays with it."""

    def begin(self, world: World) -> None:
        super().begin(world)
        self._sent: tuple[int, tuple[int, ...]] | None = None

    def arrived(self, now: float, request: int, model: int, deadline: float) -> None:
        super().arrived(now, request, model, deadline)
        self._send(now)

    def finished(self, now: float, lane: int, model: int, batch: Batch) -> None:
        sent, self._sent = self._sent, None
        if sent is None:
            super().finished(now, lane, model, batch)
        else:
            worker = self._workers[lane]
            self._done(now, worker, model, batch)
            worker.running, worker.rows, worker.began_s = sent[0], len(sent[1]), now
            self._world.start(lane, sent[0], sent[1])
        self._send(now)

    def _send(self, now: float) -> None:
        (worker,) = self._workers.values()
        if self._sent is not None or worker.running is None:
            return
        if worker.queue.service_s(worker.running, worker.rows) >= AHEAD_BELOW_S:
            return
        batch, doomed = worker.queue.take(now)
        for item in doomed:
            self._answer(now, worker, item.handle, (item.id,), None)
            self._world.refuse(item.id)
        if batch is not None:
            self._sent = (batch.handle, tuple(item.id for item in batch.items))


class Abandon(AsServed):
    """A running batch of the large model is given up for enough small requests that would otherwise be late."""

    def arrived(self, now: float, request: int, model: int, deadline: float) -> None:
        super().arrived(now, request, model, deadline)
        (worker,) = self._workers.values()
        if model != SMALL or worker.running != LARGE:
            return
        waiting = worker.queue.queued(SMALL)
        until_s = worker.began_s + worker.queue.service_s(LARGE, worker.rows)
        late = deadline < until_s + worker.queue.service_s(SMALL, 1)
        lane = self._world.lanes_of(0)[0]
        if not late or waiting < LAMBDA * worker.rows:
            return
        for lost in self._world.preempt(lane):
            due = self._world.deadline_s[lost]
            worker.queue.put(Queued(lost, LARGE, 1, b"", now, due, due))
        worker.running = None
        self._take(now, worker)


POLICIES: Mapping[str, type[AsServed]] = {"recalled": AsServed, "abandoned": Abandon}


def models(small_ms: float, objective_x: float, most: int) -> list[ServedModel]:
    """The small and the large one; the large one in batches of at most so many."""
    large = tuple(0.1 * (1 + 0.5 * b) for b in range(most))
    small = tuple(small_ms / 1000 * (1 + 0.25 * b) for b in range(16))
    return [ServedModel("small", 1.0, small, small_ms / 1000 * objective_x), ServedModel("large", 1.0, large, 1.5)]


def play(arm: str, small_ms: float, objective_x: float, load: float, seconds: float, seed: int) -> tuple[float, float]:
    """Attainment of the small and of the large model."""
    held = models(small_ms, objective_x, 1 if arm == "chunks" else 8)
    traffic = [Traffic(0.15 / (small_ms / 1000), 4.0), Traffic(load / 0.1, 1.0)]
    arrivals = gamma_arrivals(traffic, seconds, np.random.default_rng(seed))
    policy = POLICIES.get(arm, Ahead)(traffic, ["acme", "acme"], RoutingLimits(admission=arm == "refusing"))
    world = World(held, Hardware(1, 4.0), swap=False)
    world.run(arrivals.seconds, arrivals.models, policy)
    finish, owner = np.asarray(world.finish_s), np.asarray(arrivals.models)
    kept = (finish >= 0) & (finish <= np.asarray(world.deadline_s))
    return float(kept[owner == SMALL].mean()), float(kept[owner == LARGE].mean())


def run(seconds: float, seeds: int) -> list[dict[str, Any]]:
    """One row per setting: [small, large] attainment of each arm, mean of the seeds."""
    rows = []
    for small_ms, objective_x, load in itertools.product((1.0, 4.0), (5.0, 25.0), (0.3, 0.6)):
        row: dict[str, Any] = {"small_ms": small_ms, "small_objective_x": objective_x, "large_load": load}
        for arm in ARMS:
            found = [play(arm, small_ms, objective_x, load, seconds, seed) for seed in range(seeds)]
            row[arm] = [round(statistics.mean(column), 4) for column in zip(*found, strict=True)]
        print(row, flush=True)
        rows.append(row)
    return rows


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """A table of all rows."""
    lines = ["# Preemption between batches", ""]
    lines += ["Made by `benchmarks/preemption.py`; its head says what the arms are. In time: small / large model.", ""]
    lines += ["| small | objective | large's load |" + "".join(f" {arm} |" for arm in ARMS)]
    lines += ["|---" * (3 + len(ARMS)) + "|"]
    for row in rows:
        cells = "".join(f" {row[arm][0]:.3f} / {row[arm][1]:.3f} |" for arm in ARMS)
        lines.append(
            f"| {row['small_ms']:.0f} ms | {row['small_objective_x']:.0f} x | {row['large_load']:.1f} |{cells}"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--write", type=Path, help="folder for preemption.{json,md}")
    options = parser.parse_args()
    rows = run(options.seconds, options.seeds)
    if options.write:
        (options.write / "preemption.json").write_text(json.dumps(rows, indent=1) + "\n")
        (options.write / "preemption.md").write_text(markdown(rows))
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
