"""What the planner may know: profiles (solo runs, probe runs, counters) and a predictor that learned from other models.

On the hidden truth, profiles are measured on it as a profiler would, and the predictor's co-runs are those of the
training models, which no tenant serves. On the recorded table they are the file's own, co-runs of half of the models.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.ground.truths import PROBES, TRAINING_MODELS, SoloTimes
from isolation.interference import dataset
from isolation.interference.atlas import build
from isolation.interference.baselines.linear import Gpulet
from isolation.interference.dataset import Measurements, Run
from isolation.interference.model import InterferenceModel, Study
from isolation.interference.rows import Colocation
from isolation.interference.simulated import Phase, ResourceTruth
from partywall.domain.profiles import Counters, Resident

SHARES = (25, 50, 75, 100)
GRID = ((25, 25), (25, 50), (25, 75), (50, 25), (50, 50), (75, 25))
PROBE_GRID = ((25, 75), (50, 50), (75, 25))


@dataclass(frozen=True, slots=True)
class Known:
    """Profiles and predictors. `solo_s` are solo seconds by share."""

    solo_s: SoloTimes
    model: InterferenceModel
    gpulet: Gpulet


def from_truth(truth: ResourceTruth, models: Sequence[str], seed: int) -> Known:
    """Profiles every model on the truth; learns from co-runs of the training models alone."""
    rng = np.random.default_rng(seed)
    training = [f"train{n}" for n in range(TRAINING_MODELS)]
    everyone, probes = [*models, *training], [p.name for p in PROBES]
    solo = {Resident(n, s): _mean_ms(truth, Resident(n, s)) for n in (*everyone, *probes) for s in SHARES}
    runs = [
        _run(truth, (Resident(n, a), Resident(p, b))) for n in everyone for p in probes for a, b in GRID if a + b <= 100
    ]
    runs += [
        _run(truth, (Resident(p, a), Resident(q, b)))
        for p, q in itertools.combinations(probes, 2)
        for a, b in PROBE_GRID
    ]
    runs += [
        _run(truth, (Resident(m, a), Resident(n, b)))
        for m, n in itertools.combinations(training, 2)
        for a, b in ((25, 75), (50, 50), (75, 25), (25, 25))
    ]
    for shares, count in (((25, 25, 50), 24), ((25, 25, 25, 25), 12)):
        for _ in range(count):
            names = rng.choice(training, len(shares), replace=False).tolist()
            runs.append(_run(truth, tuple(Resident(n, s) for n, s in zip(names, shares, strict=True))))
    counters = {
        Resident(n, s): _counters(truth, Resident(n, s), solo[Resident(n, s)]) for n in everyone for s in SHARES
    }
    measured = Measurements("simulated", solo, dict(solo), counters, tuple(runs))
    return _learn(measured, frozenset(training))


def from_table(data: Measurements, seed: int) -> Known:
    """The file's profiles; learns from the co-runs of a drawn half of its models."""
    rng = np.random.default_rng(seed)
    return _learn(data, frozenset(rng.choice(sorted(data.models), len(data.models) // 2, replace=False).tolist()))


def _learn(data: Measurements, training: frozenset[str]) -> Known:
    atlas = build(dataset.profiles(data), dataset.probe_slowdowns(data))
    rows = [
        Colocation(victim, run.others(at), run.latency_ms[at] / data.solo_ms[victim])
        for run in data.runs
        if not run.has_probe and run.names <= training
        for at, victim in enumerate(run.partners)
    ]
    table: dict[str, dict[int, float]] = {}
    for resident, ms in data.solo_ms.items():
        table.setdefault(resident.name, {})[resident.share_percent] = ms / 1000
    learned = [row for row in rows if row.group is not None]
    return Known(SoloTimes(table), Study.of(atlas, rows).fit(range(len(rows))), Gpulet.fit(atlas, learned))


def _mean_ms(truth: ResourceTruth, resident: Resident) -> float:
    return 1000 * float(truth.latencies_s([resident])[0].mean())


def _run(truth: ResourceTruth, partners: tuple[Resident, ...]) -> Run:
    return Run(partners, tuple(1000 * float(each.mean()) for each in truth.latencies_s(partners)))


def _counters(truth: ResourceTruth, resident: Resident, solo_ms: float) -> Counters:
    """What device counters would show of a solo run."""
    share, seconds = resident.share_percent / 100, solo_ms / 1000
    phases = truth.models[resident.name]
    compute = [p for p in phases if not p.gap]
    busy = sum(_took(p, share) * min(share, p.width) for p in compute) / seconds
    watts = sum(p.watts * min(share, p.width) / p.width * _took(p, share) for p in compute) / seconds
    dram = sum(p.dram_bytes for p in compute) / seconds / truth.law.dram_bytes_per_s
    return Counters(min(100 * busy, 99.0), 40 * busy, 0.0, 100 * dram, truth.law.idle_watts + watts, 1980.0)


def _took(phase: Phase, share: float) -> float:
    return phase.seconds * phase.width / min(share, phase.width)
