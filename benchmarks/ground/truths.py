"""What really holds on the simulated devices; the planner and the predictor never read this file's objects.

`hidden_truth`: every model of the data set becomes a cycle of phases whose widths come from its solo latencies at three
shares and whose bandwidth and watts come from its counters, scattered by a seed; L2 footprints are drawn. Training
models, on whose co-runs the predictor learns, are drawn altogether. `RecordedGround`: the measured table itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from isolation.interference.dataset import Measurements
from isolation.interference.simulated import Phase, ResourceTruth, SlowdownTruth
from partywall.domain.profiles import ProbeSetting, Resident, Resource

SHARE_STEP = 5
"""Percent; truths are asked at shares rounded to this, so that their answers can be kept."""
PROBES: Mapping[ProbeSetting, Sequence[Phase]] = {
    ProbeSetting(Resource.DRAM): (Phase(1e-4, dram_bytes=9e8, l2_bytes=50e6, watts=230, width=0.6),),
    ProbeSetting(Resource.L2): (Phase(1e-4, dram_bytes=2e7, l2_bytes=24e6, watts=300),),
    ProbeSetting(Resource.L2_LARGE): (Phase(1e-4, dram_bytes=9e7, l2_bytes=42e6, watts=300),),
    ProbeSetting(Resource.POWER): (Phase(1e-4, dram_bytes=2e6, l2_bytes=8e6, watts=640),),
    ProbeSetting(Resource.LAUNCH): (Phase(2e-5, watts=40, width=0.1), Phase(8e-5, gap=True)),
}
TRAINING_MODELS = 8
DRAM_BYTES_PER_S = 2.9e12


def hidden_truth(data: Measurements, seed: int) -> ResourceTruth:
    """Phases of the data set's models, of the probes and of the training models (`train0`, ...)."""
    rng = np.random.default_rng(seed)
    models: dict[str, tuple[Phase, ...]] = {probe.name: tuple(phases) for probe, phases in PROBES.items()}
    for name in data.models:
        models[name] = _like(data, name, rng)
    for number in range(TRAINING_MODELS):
        models[f"train{number}"] = _drawn(rng)
    return ResourceTruth(models, batches=8)


def _like(data: Measurements, name: str, rng: np.random.Generator) -> tuple[Phase, ...]:
    solo = {share: data.solo_ms[Resident(name, share)] for share in (25, 50, 100)}
    half, quarter = solo[50] / solo[100], solo[25] / solo[100]
    wide = min(max(half - 1.0, 0.02), 0.9)
    middle = min(max(quarter - 1.0 - 3 * wide, 0.0), 1.0 - wide)
    rest = 1.0 - wide - middle
    counters = data.counters[Resident(name, 100)]
    gap = rest * rng.uniform(0.3, 0.8) if counters.sm_util < 80 else 0.0
    parts = ((wide, 1.0), (middle, 0.5), (rest - gap, 0.25), (gap, 0.0))
    used = counters.dram_bw / 100 * rng.uniform(0.8, 1.3)
    watts = (counters.watts - 110) * rng.uniform(0.9, 1.1)
    return _phases(solo[100] / 1000, parts, used, watts, rng.uniform(4e6, 40e6))


def _drawn(rng: np.random.Generator) -> tuple[Phase, ...]:
    wide, middle, narrow, gap = rng.dirichlet((2.0, 0.7, 0.8, 0.5))
    parts = ((wide, 1.0), (middle, 0.5), (narrow, 0.25), (gap, 0.0))
    seconds = float(np.exp(rng.uniform(np.log(4e-4), np.log(4e-3))))
    return _phases(seconds, parts, rng.beta(1.2, 4.0), rng.uniform(70, 560), rng.uniform(4e6, 40e6))


def _phases(
    seconds: float, parts: Sequence[tuple[float, float]], dram: float, watts: float, l2_bytes: float
) -> tuple[Phase, ...]:
    """`parts` are (part of the batch's time, width); width 0 is a gap. `dram` is a part of the device's bandwidth."""
    busy = sum(part for part, width in parts if width > 0)
    found = []
    for part, width in parts:
        took = part * seconds
        if took <= 1e-7:
            continue
        if width == 0.0:
            found.append(Phase(took, gap=True))
        else:
            found.append(Phase(took, dram * DRAM_BYTES_PER_S * took / busy, l2_bytes, watts / busy, width))
    return tuple(found)


@dataclass(slots=True)
class RecordedGround:
    """Recorded pairs at the nearest shares; sets that nobody recorded are the product of their pairs.

    A pair of the same model was not recorded: it is given what the model suffers and presses on average, in logs.
    `uncapped` reads the runs at 100 % each; `sliced` those without MPS (a pair of these takes turns, so slowdowns add).
    """

    data: Measurements
    uncapped: bool = False
    sliced: Mapping[tuple[str, str], float] | None = None
    _pairs: dict[tuple[str, str], list[tuple[int, int, float]]] = field(default_factory=dict)
    _means: dict[tuple[int, int], tuple[dict[str, float], dict[str, float], float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        logs: dict[tuple[int, int], list[tuple[str, str, float]]] = {}
        for run in self.data.runs:
            if run.has_probe or len(run.partners) != 2:
                continue
            for at, victim in enumerate(run.partners):
                (other,) = run.others(at)
                shares = victim.share_percent, other.share_percent
                if (sum(shares) > 100) is not self.uncapped:
                    continue
                log = float(np.log(max(run.latency_ms[at] / self.data.solo_ms[victim], 1.0)))
                self._pairs.setdefault((victim.name, other.name), []).append((*shares, log))
                logs.setdefault(shares, []).append((victim.name, other.name, log))
        for shares, rows in logs.items():
            mean = float(np.mean([log for *_, log in rows]))
            suffers = {v: float(np.mean([g for w, _, g in rows if w == v])) for v, _, _ in rows}
            presses = {n: float(np.mean([g for _, w, g in rows if w == n])) for _, n, _ in rows}
            self._means[shares] = suffers, presses, mean

    def slowdowns(self, active: Sequence[Resident]) -> tuple[float, ...]:
        found = []
        for at, victim in enumerate(active):
            others = [n for i, n in enumerate(active) if i != at]
            if self.sliced is not None:
                usual = float(np.median(list(self.sliced.values())))
                found.append(1.0 + sum(self.sliced.get((victim.name, n.name), usual) - 1.0 for n in others))
            else:
                found.append(float(np.exp(sum(self._log(victim, n) for n in others))))
        return tuple(found)

    def _log(self, victim: Resident, other: Resident) -> float:
        def distance(at: tuple[int, int]) -> tuple[int, int, int]:
            return abs(at[0] - victim.share_percent) + abs(at[1] - other.share_percent), at[0], at[1]

        rows = self._pairs.get((victim.name, other.name))
        if rows:
            return min(rows, key=lambda row: distance(row[:2]))[2]
        suffers, presses, mean = self._means[min(self._means, key=distance)]
        return max(suffers.get(victim.name, mean) + presses.get(other.name, mean) - mean, 0.0)


@dataclass(slots=True)
class GroundPace:
    """`loadgen.hardware.Pace`: the truth under the tenants' names (`names[m]` is the data set's model of tenant m)."""

    truth: SlowdownTruth
    names: Sequence[str]
    solo_s: SoloTimes
    known: dict[tuple[Resident, ...], tuple[float, ...]]

    def service_s(self, model: int, share: float, size: int) -> float:
        return size * self.solo_s.at(self.names[model], share)

    def slowdowns(self, running: Sequence[tuple[int, float]]) -> Sequence[float]:
        if len(running) < 2:
            return (1.0,) * len(running)
        active = [Resident(self.names[model], rounded(share)) for model, share in running]
        order = sorted(range(len(active)), key=lambda i: active[i])
        key = tuple(active[i] for i in order)
        if key not in self.known:
            self.known[key] = self.truth.slowdowns(key)
        found = [1.0] * len(active)
        for position, i in enumerate(order):
            found[i] = self.known[key][position]
        return found


def rounded(share: float) -> int:
    """A share as the truth is asked for it, in percent."""
    return max(SHARE_STEP, min(100, SHARE_STEP * round(100 * share / SHARE_STEP)))


@dataclass(slots=True)
class SoloTimes:
    """Solo seconds by share: straight in 1 / latency between measured shares, proportional below the first."""

    table: Mapping[str, Mapping[int, float]]
    _known: dict[tuple[str, float], float] = field(default_factory=dict)

    def at(self, name: str, share: float) -> float:
        key = name, share
        if key not in self._known:
            shares = sorted(self.table[name])
            speeds = [1 / self.table[name][s] for s in shares]
            self._known[key] = 1 / float(np.interp(100 * share, [0, *shares], [0.0, *speeds]))
        return self._known[key]
