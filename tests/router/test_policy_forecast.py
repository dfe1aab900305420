"""Forecasts against "the last value again", by pinball loss."""

from __future__ import annotations

import math
import random

import pytest

from router.policy.forecast import Forecaster, ForecastSettings, pinball_loss


def poisson(mean: float, rng: random.Random) -> int:
    return (
        max(0, round(rng.gauss(mean, math.sqrt(mean))))
        if mean > 30
        else sum(1 for _ in range(1000) if rng.random() < mean / 1000)
    )


def losses(season: int, counts: list[int], quantile: float) -> tuple[float, float]:
    forecaster = Forecaster(ForecastSettings(season=season, quantile=quantile))
    ours, naive, actual = [], [], []
    for at, count in enumerate(counts):
        if at >= 2 * season:
            ours.append(forecaster.next().upper)
            naive.append(counts[at - 1])
            actual.append(count)
        forecaster.observe(count)
    return pinball_loss(actual, ours, quantile), pinball_loss(actual, naive, quantile)


@pytest.mark.parametrize("shape", ["daily", "flat", "spiky"])
@pytest.mark.parametrize("quantile", [0.5, 0.95])
def test_better_than_the_last_value_again(shape: str, quantile: float) -> None:
    seed, season = 4, 48
    rng = random.Random(seed)
    counts = []
    for at in range(8 * season):
        level = {"daily": 60 + 50 * math.sin(2 * math.pi * at / season), "flat": 40.0, "spiky": 20.0}[shape]
        if shape == "spiky" and at % season in (10, 30):
            level *= 6
        counts.append(poisson(level, rng))
    ours, naive = losses(season, counts, quantile)
    assert ours < naive, f"seed {seed}: {ours:.2f} against {naive:.2f}"


def test_the_upper_bound_covers_its_quantile() -> None:
    rng = random.Random(1)
    forecaster = Forecaster(ForecastSettings(season=24, quantile=0.9))
    covered = []
    for at in range(1500):
        count = poisson(50.0, rng)
        if at > 200:
            covered.append(count <= forecaster.next().upper)
        forecaster.observe(count)
    assert 0.86 <= sum(covered) / len(covered) <= 0.96


def test_a_shift_of_level_is_followed() -> None:
    forecaster = Forecaster(ForecastSettings(season=10))
    for _ in range(30):
        forecaster.observe(10)
    for _ in range(8):
        forecaster.observe(100)
    assert forecaster.next().mean > 60


def test_nothing_seen_expects_nothing() -> None:
    assert Forecaster().next().mean == 0.0
    assert pinball_loss([], [], 0.5) == 0.0
    assert pinball_loss([10.0], [8.0], 0.9) == pytest.approx(1.8)
    assert pinball_loss([8.0], [10.0], 0.9) == pytest.approx(0.2)
