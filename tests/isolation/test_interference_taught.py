"""Lessons from a fleet's own co-runs: what they move, when they count, and what they never touch."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from isolation.interference import dataset, fits
from isolation.interference.atlas import build
from isolation.interference.direct import DirectModel
from isolation.interference.live import Setting
from isolation.interference.model import Basis, Prediction
from isolation.interference.rows import Group
from isolation.interference.splits import rows_of
from isolation.interference.taught import CoRun, TaughtCorrector, TeachingPolicy, learn
from partywall.domain.fleet import PartitionKind
from partywall.domain.profiles import ProbePoint, Resident

SEED = 11
POLICY = TeachingPolicy()


def setting(victim: str, neighbour: str, device_type: str = "GPU") -> Setting:
    return Setting(Resident(victim, 50), frozenset({Resident(neighbour, 50)}), PartitionKind.MPS, device_type)


def predicted(log: float, basis: Basis = Basis.PROFILES) -> Prediction:
    return Prediction(math.exp(log), math.exp(log + 0.2), 0.1, basis)


def co_runs(models: int, true_scale: float, noise: float = 0.01) -> list[CoRun]:
    rng = np.random.default_rng(SEED)
    logs = rng.uniform(0.1, 0.6, (models, 3))
    return [
        CoRun(f"m{m}", float(x), 0.1, float(true_scale * x + rng.normal(0, noise)), 10)
        for m in range(models)
        for x in logs[m]
    ]


def test_a_common_factor_is_learned_and_shrunk_to_one() -> None:
    found = learn(co_runs(8, 0.5), POLICY)
    assert found is not None
    assert 0.5 < found.scale < 0.6
    assert found.deviations < 2.0
    assert (found.models, found.co_runs) == (8, 24)


def test_of_few_models_the_bound_is_never_narrower_than_that_of_profiles() -> None:
    found = learn(co_runs(3, 0.5), POLICY)
    assert found is not None
    assert found.deviations >= 2.0


def test_too_little_or_nothing_to_say_teaches_nothing() -> None:
    assert learn(co_runs(2, 0.5), POLICY) is None
    assert learn(co_runs(8, 0.5)[:5], POLICY) is None
    assert learn([], POLICY) is None
    rng = np.random.default_rng(SEED)
    # Each model its own way: what the others say is no help.
    scattered = [CoRun(f"m{m}", 0.4, 0.1, 0.4 + (0.2 if m % 2 else -0.2), 10) for m in range(8)]
    rng.shuffle(scattered)  # type: ignore[arg-type]
    assert learn(scattered, POLICY) is None


def taught(scale: float = 0.5) -> TaughtCorrector:
    corrector = TaughtCorrector()
    for victim in range(4):
        for neighbour in range(4, 7):
            log = 0.2 + 0.05 * victim + 0.03 * neighbour
            for at in range(6):
                corrector.observe(
                    setting(f"m{victim}", f"m{neighbour}"), predicted(log), math.exp(scale * log), float(at)
                )
    corrector.prune(100.0)
    return corrector


def test_a_pair_that_never_met_is_predicted_from_what_others_taught() -> None:
    found = taught().correct(setting("new", "other"), predicted(0.4), 100.0)
    assert found.basis is Basis.CO_RUNS
    assert math.log(found.slowdown) == pytest.approx(0.2, abs=0.05)
    assert found.upper > found.slowdown


def test_lessons_hold_for_their_type_of_device_and_for_profiles_alone() -> None:
    corrector = taught()
    assert set(corrector.lessons) == {"GPU"}
    assert corrector.correct(setting("new", "other", "another"), predicted(0.4), 100.0) == predicted(0.4)
    fitted = predicted(0.4, Basis.FIT)
    assert corrector.correct(setting("new", "other"), fitted, 100.0) == fitted
    unbound = Prediction(1.0, math.inf, 0.5, Basis.CONSTANT)
    assert corrector.correct(setting("new", "other"), unbound, 100.0) == unbound


def test_reports_of_the_setting_itself_count_more_than_the_lesson() -> None:
    corrector = taught()
    odd = setting("new", "other")
    for at in range(100, 140):
        corrector.observe(odd, predicted(0.4), math.exp(0.5), float(at))
    found = corrector.correct(odd, predicted(0.4), 140.0)
    assert math.log(found.slowdown) == pytest.approx(0.5, abs=0.03)


def test_what_changes_with_a_new_profile_is_forgotten() -> None:
    corrector = taught()
    corrector.forget([f"m{i}" for i in range(4)])
    corrector.prune(130.0)
    assert corrector.lessons, "lessons are learned once a minute"
    corrector.prune(200.0)
    assert not corrector.lessons
    assert corrector.wants_profile() == ()


def test_only_so_many_settings_are_remembered() -> None:
    corrector = TaughtCorrector(teaching=TeachingPolicy(most=3))
    for number in range(10):
        corrector.observe(setting(f"m{number}", "other"), predicted(0.4), 1.2, float(number))
    assert len(corrector._co_runs) == 3


def test_on_recorded_pairs_a_lesson_helps_models_it_has_not_seen() -> None:
    ((name, content),) = fits.shipped()
    data = fits.parse(content, name).data
    known, table = dataset.profiles(data), dataset.probe_slowdowns(data)
    atlas = build(known, table)
    # The probes beside themselves, completed from probe runs (atlas.py): no co-run of two models is read.
    own = {
        ProbePoint(probe, *shares): float(np.exp(atlas.sensitivity[atlas.models + i, c, i]))
        for i, probe in enumerate(atlas.probes)
        for c, shares in enumerate(atlas.grid)
    }
    rows = [r for r in rows_of([(r, data) for r in data.runs if not r.has_probe]) if r.group is Group.PAIRS]
    direct = DirectModel({n: replace(p, probe_self=own) for n, p in known.items()}).predict(rows)
    runs = [
        CoRun(r.victim.name, math.log(p.slowdown), p.deviation, math.log(r.slowdown), 10)
        for r, p in zip(rows, direct, strict=True)
    ]
    before, after, covered = [], [], []
    for out in known:
        lesson = learn([c for c, r in zip(runs, rows, strict=True) if out not in r.names], POLICY)
        assert lesson is not None
        for c in [c for c, r in zip(runs, rows, strict=True) if out in r.names]:
            mean = lesson.scale * c.predicted
            before.append(abs(math.expm1(c.predicted - c.observed)))
            after.append(abs(math.expm1(mean - c.observed)))
            covered.append(c.observed <= mean + lesson.deviations * c.deviation)
    figures = [float(np.quantile(errors, q)) for errors in (before, after) for q in (0.5, 0.9)]
    print(f"direct p50 {figures[0]:.3f} p90 {figures[1]:.3f}; taught {figures[2]:.3f} {figures[3]:.3f}")
    assert figures[3] < figures[1]
    assert np.mean(covered) > 0.9
