"""Weights of a shift."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.policy.shifting import AT_ONCE, COLD_STEPS, Pace, Shift


@given(st.floats(0.01, 0.99), st.integers(1, 500))
def test_turns_follow_the_weight(weight: float, turns: int) -> None:
    shift = Shift("old", "new", weight)
    news = sum(shift.pass_over() == "old" for _ in range(turns))
    assert abs(news - turns * weight) <= 1.0


def test_steps_are_held_and_end_at_one() -> None:
    pace, weight, seen = Pace(step_s=2.0), 0.0, []
    for _ in range(20):
        weight = pace.next_weight(weight, held_s=0.0)
        seen.append(weight)
        assert pace.next_weight(weight, held_s=1.9) == weight
        weight = pace.next_weight(weight, held_s=2.0)
    assert seen[0] == COLD_STEPS[0]
    assert weight == 1.0


def test_at_once() -> None:
    assert Pace(AT_ONCE).next_weight(0.0, 0.0) == 1.0


@pytest.mark.parametrize("odd", [0.3, 0.9, 1.0])
def test_a_weight_of_no_step_goes_on_upwards(odd: float) -> None:
    assert Pace().next_weight(odd, 10.0) > odd or odd == 1.0
