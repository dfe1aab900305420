"""Live correction on a virtual clock: shrinks, forgets, notices, forgives after a new profile."""

import math

import numpy as np
import pytest

from isolation.interference.live import LiveCorrector, LivePolicy, Setting
from isolation.interference.model import Basis, Prediction
from partywall.domain.fleet import PartitionKind
from partywall.domain.profiles import Resident
from partywall.errors import InvalidInput

SETTING = Setting(Resident("a", 50), frozenset({Resident("b", 50)}), PartitionKind.MPS)
PREDICTED = Prediction(1.2, 1.2 * math.exp(0.1), 0.05, Basis.PROFILES)
SEED = 11


def feed(corrector: LiveCorrector, factor: float, reports: int, start_s: float = 0.0, noise: float = 0.01) -> float:
    """`reports` one second apart around `factor` x predicted; returns the time after the last."""
    rng = np.random.default_rng(SEED)
    for i in range(reports):
        measured = PREDICTED.slowdown * factor * math.exp(rng.normal(0, noise))
        corrector.observe(SETTING, PREDICTED, measured, start_s + i)
    return start_s + reports


def test_unreported_setting_keeps_its_prediction() -> None:
    assert LiveCorrector().correct(SETTING, PREDICTED, 0.0) == PREDICTED


def test_one_report_is_shrunk_and_many_are_believed() -> None:
    few, many = LiveCorrector(), LiveCorrector()
    t_few, t_many = feed(few, 1.05, 1, noise=0), feed(many, 1.05, 100, noise=0)
    after_one = few.correct(SETTING, PREDICTED, t_few).slowdown
    after_many = many.correct(SETTING, PREDICTED, t_many).slowdown
    assert PREDICTED.slowdown < after_one < after_many
    assert after_many == pytest.approx(1.05 * PREDICTED.slowdown, rel=0.01)


def test_reports_narrow_the_bound() -> None:
    corrector = LiveCorrector()
    corrected = corrector.correct(SETTING, PREDICTED, feed(corrector, 1.0, 50))
    assert corrected.upper / corrected.slowdown < PREDICTED.upper / PREDICTED.slowdown


def test_old_reports_are_forgotten() -> None:
    corrector = LiveCorrector(LivePolicy(half_life_s=60.0))
    end = feed(corrector, 1.05, 50)
    later = corrector.correct(SETTING, PREDICTED, end + 3600)
    assert later.slowdown == pytest.approx(PREDICTED.slowdown, rel=1e-3)


@pytest.mark.parametrize("factor", [1.3, 0.75])
def test_change_widens_the_bound_and_asks_for_a_profile(factor: float) -> None:
    corrector = LiveCorrector()
    steady = feed(corrector, 1.0, 100)
    assert corrector.wants_profile() == ()
    end = feed(corrector, factor, 30, steady)
    assert corrector.wants_profile() == ("a",)
    corrected = corrector.correct(SETTING, PREDICTED, end)
    assert corrected.upper / corrected.slowdown > PREDICTED.upper / PREDICTED.slowdown


def test_noise_alone_raises_no_alarm() -> None:
    corrector = LiveCorrector()
    feed(corrector, 1.03, 2000, noise=0.015)
    assert corrector.wants_profile() == ()


@pytest.mark.parametrize("name", ["a", "b"])
def test_new_profile_starts_over(name: str) -> None:
    corrector = LiveCorrector()
    end = feed(corrector, 1.5, 60)
    corrector.forget([name])
    assert corrector.wants_profile() == ()
    assert corrector.correct(SETTING, PREDICTED, end) == PREDICTED


def test_settings_do_not_mix() -> None:
    corrector = LiveCorrector()
    end = feed(corrector, 1.1, 20)
    other = Setting(SETTING.victim, SETTING.neighbours, PartitionKind.WHOLE)
    assert corrector.correct(other, PREDICTED, end) == PREDICTED


@pytest.mark.parametrize("measured", [0.0, -1.0, math.nan, math.inf])
def test_impossible_report_is_refused(measured: float) -> None:
    with pytest.raises(InvalidInput, match="measured_slowdown"):
        LiveCorrector().observe(SETTING, PREDICTED, measured, 0.0)


def test_no_bound_stays_no_bound() -> None:
    corrector = LiveCorrector()
    unbound = Prediction(1.2, math.inf, 0.5, Basis.CONSTANT)
    corrector.observe(SETTING, unbound, 1.3, 0.0)
    assert corrector.correct(SETTING, unbound, 1.0) == unbound


def test_settings_that_nobody_reports_any_more_are_let_go() -> None:
    corrector = LiveCorrector(LivePolicy(half_life_s=60.0))
    end = feed(corrector, 1.05, 10)
    corrector.prune(end)
    assert corrector.correct(SETTING, PREDICTED, end) != PREDICTED
    corrector.prune(end + 3600)
    assert corrector.correct(SETTING, PREDICTED, end) == PREDICTED
