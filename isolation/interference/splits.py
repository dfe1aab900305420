"""What is learned from and what is judged: train/test files, and leave-model-out and leave-pair-out of one file."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from isolation.interference import dataset
from isolation.interference.atlas import build
from isolation.interference.dataset import Measurements, Run
from isolation.interference.model import Study
from isolation.interference.rows import Colocation
from partywall.domain.profiles import Profile, Resident
from partywall.errors import InvalidInput

_RETESTED = " (test)"


class Split(enum.StrEnum):
    MODEL_OUT = "leave-model-out"
    PAIR_OUT = "leave-pair-out"


@dataclass(frozen=True, slots=True)
class Fold:
    """Places of rows to learn from and to judge. `held_out` are the models, or the pair, without a training co-run.

    `of` tells which of `held_out` each judged row belongs to: a run's rows belong to every held-out model in the run.
    """

    seen: tuple[int, ...]
    judged: tuple[int, ...]
    held_out: tuple[frozenset[str], ...]


@dataclass(frozen=True, slots=True)
class Trial:
    """A study and its folds."""

    study: Study
    folds: tuple[Fold, ...]


def one_file(data: Measurements, split: Split) -> Trial:
    """Leaves out every model, or every pair of models, of one file in turn."""
    runs = [(r, data) for r in data.runs if not r.has_probe]
    rows, of_run = _rows(runs)
    study = Study.of(build(dataset.profiles(data), dataset.probe_slowdowns(data)), rows)
    names = sorted({n for r, _ in runs for n in r.names})
    if len(names) < 3:
        raise InvalidInput(f"--data must hold co-runs of at least 3 models, got {len(names)}")
    left_out = (
        [frozenset([n]) for n in names] if split is Split.MODEL_OUT else [*map(frozenset, combinations(names, 2))]
    )
    folds = []
    for out in left_out:
        touched = [out <= r.names for r, _ in runs]
        judged = tuple(i for i, r in enumerate(of_run) if touched[r] and rows[i].group is not None)
        seen = tuple(i for i, r in enumerate(of_run) if not touched[r])
        if judged and seen:
            folds.append(Fold(seen, judged, (out,)))
    return Trial(study, tuple(folds))


def two_files(train: Measurements, test: Measurements) -> Trial:
    """Learns from the co-runs of `train` and judges those of `test` with a model that has none in `train`.

    Profiles (solo, counters and probe runs) of both files are used. A model that the second file measured anew keeps
    a profile of its own there.
    """
    ours, theirs = dataset.profiles(train), dataset.profiles(test)
    renamed = {n: n + _RETESTED for n, p in theirs.items() if n in ours and ours[n] != p and _judgeable(p)}
    profiles: dict[str, Profile] = dict(ours)
    for name, profile in theirs.items():
        if name not in ours or name in renamed:
            profiles[renamed.get(name, name)] = profile
    seen_runs = [(r, train) for r in train.runs if not r.has_probe]
    known = frozenset(n for r, _ in seen_runs for n in r.names)
    judged_runs = [(r, test) for r in test.runs if not r.has_probe and not r.names <= known]
    if not seen_runs or not judged_runs:
        raise InvalidInput("--train must hold co-runs, and --test co-runs with a model that has none in --train")
    seen, _ = _rows(seen_runs)
    judged, _ = _rows(judged_runs, fallback=train)
    judged = [_rename(r, renamed) for r in judged]
    table = {**dataset.probe_slowdowns(test), **dataset.probe_slowdowns(train)}
    study = Study.of(build(profiles, table), [*seen, *judged], learnable=len(seen))
    places = tuple(len(seen) + i for i, r in enumerate(judged) if r.group is not None)
    new = sorted({n for r, _ in judged_runs for n in r.names} - known)
    fold = Fold(tuple(range(len(seen))), places, tuple(frozenset([renamed.get(n, n)]) for n in new))
    return Trial(study, (fold,))


def _judgeable(profile: Profile) -> bool:
    return profile.probed and bool(profile.beside_probes_ms)


def rows_of(runs: Sequence[tuple[Run, Measurements]]) -> list[Colocation]:
    """Every partner of every run, with its slowdown; InvalidInput names the solo that is missing."""
    return _rows(runs)[0]


def _rows(
    runs: Sequence[tuple[Run, Measurements]], fallback: Measurements | None = None
) -> tuple[list[Colocation], list[int]]:
    """Every partner of every run is a row; the second list tells the run's place. Rows without a solo are an error."""
    rows, of_run = [], []
    for place, (run, data) in enumerate(runs):
        for i, victim in enumerate(run.partners):
            solo = data.solo_ms.get(victim) or (fallback.solo_ms.get(victim) if fallback else None)
            if solo is None:
                raise InvalidInput(f"solo of {victim.name}@{victim.share_percent} is missing; measure it alone first")
            rows.append(Colocation(victim, run.others(i), run.latency_ms[i] / solo))
            of_run.append(place)
    return rows, of_run


def _rename(row: Colocation, names: dict[str, str]) -> Colocation:
    def new(resident: Resident) -> Resident:
        return replace(resident, name=names.get(resident.name, resident.name))

    return Colocation(new(row.victim), tuple(new(n) for n in row.neighbours), row.slowdown)
