"""What a cpuset wall is worth: a victim's p95 beside a saturating neighbour, with walls and without.

Two victims and two neighbours run all the time, one pair inside cpuset partitions and one pair free; a round measures
each victim alone and beside its neighbour, in random order. Slow-down is p95 beside the neighbour over p95 alone *in
the same setting and round*; the verdict is on the median over rounds.

What else runs on the machine is noise of neither pair: before each measurement the machine is given time to become
quiet, and one during which strangers used more than `QUIET_CORES` of a core is made again; the report
says how many were.

    python benchmarks/walls.py [--rounds 7] [--seconds 1.5] [--seed 1] [--patience 120] [--out docs/results/walls]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from isolation.devices.cpu import cpu_device
from isolation.partition.confine import confine_self, observe_self
from isolation.partition.cpuset import CpusetPartitioner
from isolation.partition.partitioner import Observation, WorkerConfinement
from partywall.domain.fleet import Partition, PartitionKind

WITH_WALLS_AT_MOST = 1.6
WITHOUT_AT_LEAST = 1.5  # times as much
WIDTH, LAYERS, BATCH = 512, 4, 16
NEIGHBOUR_THREADS = 4
MIN_BATCHES = 40
"""A p95 of fewer says nothing; a busy machine takes longer than asked for instead."""
QUIET_CORES = 0.25
HEADINGS = (
    "| round | alone ms | beside ms | slow-down with walls | free: alone ms | beside ms | slow-down without "
    "| strangers, cores |"
)
STOP_S = 10.0


@dataclass(frozen=True, slots=True)
class Round:
    """p95 in milliseconds of one round: alone and beside the neighbour, with walls and without."""

    walled_alone_ms: float
    walled_beside_ms: float
    free_alone_ms: float
    free_beside_ms: float
    strangers_cores: float
    """Cores' worth of time that processes outside the benchmark used, in its most disturbed measurement."""
    repeated: int
    """Measurements that were made again for their sake."""

    @property
    def walled(self) -> float:
        return self.walled_beside_ms / self.walled_alone_ms

    @property
    def free(self) -> float:
        return self.free_beside_ms / self.free_alone_ms


class Member:
    """A process of the benchmark, spoken to in lines of JSON."""

    def __init__(self, role: str, confinement: WorkerConfinement | None) -> None:
        given = json.dumps(None if confinement is None else asdict(confinement))
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--role", role, "--confinement", given],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self._process.pid
        self.observed = self._receive()

    def ask(self, **message: Any) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message) + "\n")
        self._process.stdin.flush()
        return self._receive()

    def end(self) -> None:
        self._process.terminate()
        self._process.wait(STOP_S)

    def _receive(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a member of the benchmark ended with {self._process.wait(STOP_S)}")
        return json.loads(line)


def play(role: str, confinement: WorkerConfinement | None) -> None:
    """A member's life: take the confinement on, import torch, obey."""
    base = confine_self(confinement) if confinement else 0
    import torch

    if confinement:
        torch.set_num_threads(confinement.threads)
    tell(asdict(observe_self(base, torch.get_num_threads())))
    obey = measure_on_request() if role == "victim" else saturate_on_request()
    next(obey)
    for line in sys.stdin:
        tell(obey.send(json.loads(line)))


def measure_on_request() -> Generator[Any, Any, None]:
    """The victim: a multi-layer perceptron, one batch after the other; answers with latencies in milliseconds."""
    import torch

    torch.manual_seed(0)
    layers: list[torch.nn.Module] = []
    for _ in range(LAYERS):
        layers += [torch.nn.Linear(WIDTH, WIDTH), torch.nn.ReLU()]
    model, batch = torch.nn.Sequential(*layers), torch.randn(BATCH, WIDTH)
    answer: Any = None
    while True:
        request = yield answer
        latencies: list[float] = []
        with torch.inference_mode():
            end = time.perf_counter() + request["seconds"]
            while time.perf_counter() < end or len(latencies) < MIN_BATCHES:
                begun = time.perf_counter()
                model(batch)
                latencies.append((time.perf_counter() - begun) * 1000)
        answer = latencies


def saturate_on_request() -> Generator[Any, Any, None]:
    """The neighbour: threads that multiply matrices for as long as they may, paused at first."""
    import torch

    running = threading.Event()

    def burn() -> None:
        matrix = torch.randn(WIDTH, WIDTH)
        while True:
            running.wait()
            torch.mm(matrix, matrix)

    for _ in range(NEIGHBOUR_THREADS):
        threading.Thread(target=burn, daemon=True).start()
    answer: Any = None
    while True:
        request = yield answer
        (running.set if request["run"] else running.clear)()
        answer = "ok"


def tell(message: Any) -> None:
    print(json.dumps(message), flush=True)


def p95_ms(latencies_ms: list[float]) -> float:
    return statistics.quantiles(latencies_ms, n=100)[94]


@contextmanager
def cast(partitioner: CpusetPartitioner, victim: Partition, neighbour: Partition) -> Iterator[dict[str, Member]]:
    """All four members; the two inside walls are attested before anything is measured."""
    members: dict[str, Member] = {}
    try:
        for role, partition in (("victim", victim), ("neighbour", neighbour)):
            member = members[f"walled {role}"] = Member(role, partitioner.prepare(partition))
            observed = Observation(**member.observed | {"cores": tuple(member.observed["cores"])})
            verdict = partitioner.attest(partition, observed)
            if not verdict.ok:
                raise RuntimeError(f"{role}: {verdict.reasons}")
            print(f"{role}: {verdict.wall}", file=sys.stderr)
            members[f"free {role}"] = Member(role, None)
        yield members
    finally:
        for member in members.values():
            member.end()


class Machine:
    """How busy the machine is with others, from /proc."""

    def __init__(self, members: dict[str, Member]) -> None:
        self._pids = [member.pid for member in members.values()]
        self._tick_s = 1.0 / os.sysconf("SC_CLK_TCK")

    def strangers_s(self) -> float:
        """CPU seconds that processes outside the benchmark have used since the start of the machine."""
        # user nice system idle iowait irq softirq: all but idle and iowait is work (proc(5)).
        ticks = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:8]]
        busy = sum(ticks) - ticks[3] - ticks[4]
        return (busy - sum(self._own_ticks(pid) for pid in self._pids)) * self._tick_s

    def wait_until_quiet(self, give_up_at_s: float) -> None:
        while time.monotonic() < give_up_at_s:
            before_s = self.strangers_s()
            time.sleep(0.3)  # the window that is looked at
            if (self.strangers_s() - before_s) / 0.3 <= QUIET_CORES:
                return

    @staticmethod
    def _own_ticks(pid: int) -> int:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])


def measure(members: dict[str, Member], setting: str, beside: bool, seconds: float) -> float:
    """p95 of a victim, alone or beside its neighbour, in milliseconds."""
    victim, neighbour = members[f"{setting} victim"], members[f"{setting} neighbour"]
    neighbour.ask(run=beside)
    try:
        victim.ask(seconds=min(0.3, seconds))
        return p95_ms(victim.ask(seconds=seconds))
    finally:
        neighbour.ask(run=False)


def one_round(members: dict[str, Member], seconds: float, rng: random.Random, give_up_at_s: float) -> Round:
    steps = [(setting, beside) for setting in ("walled", "free") for beside in (False, True)]
    rng.shuffle(steps)
    machine = Machine(members)
    found = {}
    worst_cores, repeated = 0.0, 0
    while steps:
        setting, beside = steps[-1]
        machine.wait_until_quiet(give_up_at_s)
        begun_s, strangers_s = time.monotonic(), machine.strangers_s()
        p95 = measure(members, setting, beside, seconds)
        cores = (machine.strangers_s() - strangers_s) / (time.monotonic() - begun_s)
        if cores > QUIET_CORES and time.monotonic() < give_up_at_s:
            repeated += 1
            continue
        found[f"{setting}_{'beside' if beside else 'alone'}_ms"] = p95
        worst_cores = max(worst_cores, cores)
        steps.pop()
    return Round(**found, strangers_cores=worst_cores, repeated=repeated)


def rounds_of(
    members: dict[str, Member], wanted: int, seconds: float, rng: random.Random, patience_s: float
) -> tuple[list[Round], list[Round]]:
    """Undisturbed and disturbed rounds; gives up when patience is over."""
    give_up_at_s = time.monotonic() + patience_s
    one_round(members, seconds / 3, rng, give_up_at_s)  # warms caches and clocks
    calm: list[Round] = []
    disturbed: list[Round] = []
    while len(calm) < wanted and (time.monotonic() < give_up_at_s or len(calm) + len(disturbed) < wanted):
        made = one_round(members, seconds, rng, give_up_at_s)
        (calm if made.strangers_cores <= QUIET_CORES else disturbed).append(made)
    return calm, disturbed


def report(
    calm: list[Round], disturbed: list[Round], wanted: int, load_before: float, seed: int, seconds: float
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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.5)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--patience", type=float, default=120.0, help="seconds for the machine to be quiet, in all")
    parser.add_argument("--out", type=Path, default=None, help="writes OUT.json and OUT.md")
    parser.add_argument("--role", choices=["victim", "neighbour"], help=argparse.SUPPRESS)
    parser.add_argument("--confinement", default="null", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.role:
        given = json.loads(arguments.confinement)
        play(arguments.role, WorkerConfinement(**given) if given else None)
        return 0
    device = cpu_device()
    if len(device.cores) < 2:
        print("a wall between two neighbours needs two cores", file=sys.stderr)
        return 2
    half = len(device.cores) // 2
    victim = Partition("victim", PartitionKind.CPUSET, device.id, device.cores[:half])
    neighbour = Partition("neighbour", PartitionKind.CPUSET, device.id, device.cores[half:])
    rng = random.Random(arguments.seed)
    load_before = os.getloadavg()[0]
    print(f"seed {arguments.seed}, load {load_before:.2f}", file=sys.stderr)
    with cast(CpusetPartitioner(device), victim, neighbour) as members:
        calm, disturbed = rounds_of(members, arguments.rounds, arguments.seconds, rng, arguments.patience)
    result = report(calm, disturbed, arguments.rounds, load_before, arguments.seed, arguments.seconds)
    page = as_page(result)
    print(page)
    if arguments.out:
        arguments.out.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
        arguments.out.with_suffix(".md").write_text(page)
    return 0 if result["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
