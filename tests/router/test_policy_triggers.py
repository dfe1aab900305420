"""Splits are fast, merges slow, and nothing is planned without a reason."""

from __future__ import annotations

import pytest

from router.policy.triggers import Attainment, SavingWatch, TriggerSettings

SETTINGS = TriggerSettings()


@pytest.mark.parametrize(
    ("missed_per_s", "seconds", "expected"),
    [(0, 60, False), (1, 60, False), (5, 60, True), (5, 6, True)],
)
def test_misses_faster_than_allowed_are_a_risk(missed_per_s: int, seconds: int, expected: bool) -> None:
    watch = Attainment(SETTINGS)
    for second in range(seconds):
        watch.observe(second, 100 - missed_per_s, 100)
    assert watch.at_risk(seconds - 1) is expected


def test_one_bad_second_long_ago_or_a_few_requests_are_no_risk() -> None:
    watch = Attainment(SETTINGS)
    watch.observe(0, 0, 100)
    for second in range(1, 30):
        watch.observe(second, 100, 100)
    assert not watch.at_risk(29)
    few = Attainment(SETTINGS)
    few.observe(0, 0, 5)
    assert not few.at_risk(0)


def test_a_saving_must_hold() -> None:
    watch = SavingWatch(SETTINGS)
    assert not watch.observe(0, 2)
    assert not watch.observe(100, 2)
    assert not watch.observe(110, 0)  # a break starts the wait again
    assert not watch.observe(120, 1)
    assert not watch.observe(239, 1)
    assert watch.observe(240, 1)
