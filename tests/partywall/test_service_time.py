"""How long batches take, learned from batches."""

from __future__ import annotations

import pytest

from partywall.domain.service_time import ServiceTime


def learned(*seconds: float) -> ServiceTime:
    service = ServiceTime()
    for one in seconds:
        service.observe(1, one, 0.0)
    return service


def test_the_bound_is_two_deviations_above_the_mean() -> None:
    service = learned(*[0.008, 0.012] * 50)
    assert service.mean_s(1) == pytest.approx(0.010, abs=0.0005)
    assert service.upper_s(1) == pytest.approx(0.014, abs=0.001)


def test_a_machine_that_stood_still_once_is_not_taken_for_slow() -> None:
    service = learned(*[0.005] * 10, 10.0)
    assert service.upper_s(1) < 0.02
    for _ in range(10):
        service.observe(1, 0.005, 0.0)
    assert service.upper_s(1) < 0.01


def test_what_stays_slow_is_learned_within_a_few_batches() -> None:
    assert learned(*[0.005] * 10, *[1.0] * 12).mean_s(1) > 0.5


def test_a_time_of_nothing_holds_nobody_down() -> None:
    assert learned(0.0, 1.0).mean_s(1) == pytest.approx(0.2)
