"""Rounds of the walls' benchmark: each victim alone and beside its neighbour, made again where strangers disturbed."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from benchmarks.dataplane.processes import busy_s, cpu_s
from benchmarks.walling.member import Member

QUIET_CORES = 0.25


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


def rounds_of(
    members: Mapping[str, Member], wanted: int, seconds: float, rng: random.Random, patience_s: float
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


def one_round(members: Mapping[str, Member], seconds: float, rng: random.Random, give_up_at_s: float) -> Round:
    steps = [(setting, beside) for setting in ("walled", "free") for beside in (False, True)]
    rng.shuffle(steps)
    pids = [member.pid for member in members.values()]
    found = {}
    worst_cores, repeated = 0.0, 0
    while steps:
        setting, beside = steps[-1]
        wait_until_quiet(pids, give_up_at_s)
        begun_s, before_s = time.monotonic(), strangers_s(pids)
        p95 = measure(members, setting, beside, seconds)
        cores = (strangers_s(pids) - before_s) / (time.monotonic() - begun_s)
        if cores > QUIET_CORES and time.monotonic() < give_up_at_s:
            repeated += 1
            continue
        found[f"{setting}_{'beside' if beside else 'alone'}_ms"] = p95
        worst_cores = max(worst_cores, cores)
        steps.pop()
    return Round(**found, strangers_cores=worst_cores, repeated=repeated)


def measure(members: Mapping[str, Member], setting: str, beside: bool, seconds: float) -> float:
    """p95 of a victim, alone or beside its neighbour, in milliseconds."""
    victim, neighbour = members[f"{setting} victim"], members[f"{setting} neighbour"]
    neighbour.saturate(beside)
    try:
        victim.latencies_ms(min(0.3, seconds))
        return p95_ms(victim.latencies_ms(seconds))
    finally:
        neighbour.saturate(False)


def p95_ms(latencies_ms: list[float]) -> float:
    return statistics.quantiles(latencies_ms, n=100)[94]


def strangers_s(pids: Collection[int]) -> float:
    """CPU seconds that processes other than these have used since the start of the machine."""
    return busy_s() - cpu_s(pids)


def wait_until_quiet(pids: Collection[int], give_up_at_s: float) -> None:
    while time.monotonic() < give_up_at_s:
        before_s = strangers_s(pids)
        time.sleep(0.3)  # the window that is looked at
        if (strangers_s(pids) - before_s) / 0.3 <= QUIET_CORES:
            return
