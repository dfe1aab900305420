"""What a share of another size would do, by the profile's curve."""

from __future__ import annotations

from dataclasses import replace

import pytest
from reshare_world import pair

from router.policy.reshare import Cut
from router.policy.reshare_curve import late, solo_s


def test_speed_between_measured_shares_is_straight_and_ends_where_nothing_was_measured() -> None:
    curve = {(1, 50): 0.010, (1, 100): 0.006, (8, 50): 0.080}
    assert solo_s(curve, 1, 50) == pytest.approx(0.010)
    assert solo_s(curve, 1, 100) == pytest.approx(0.006)
    assert solo_s(curve, 1, 60) == pytest.approx(1 / (100 + (1 / 0.006 - 100) / 5))
    assert solo_s(curve, 1, 40) == pytest.approx(0.0125)
    assert solo_s(curve, 1, 75) is None
    assert solo_s(curve, 6, 50) == pytest.approx(0.080)
    assert solo_s(curve, 8, 62) == pytest.approx(0.080)
    assert solo_s({}, 1, 50) is None


def test_replicas_of_one_worker_take_turns() -> None:
    estate = pair(rate=20.0)
    alone = estate.holding(estate.standing[0])
    mate = replace(alone, resident=replace(alone.resident))
    cut = Cut("n1", estate.devices[0], estate.standing[0].placement.partition, (alone,))
    both = replace(cut, holdings=(alone, mate))
    one, two = late(cut, cut.size), late(both, cut.size)
    assert one is not None
    assert two is not None
    assert two > one
