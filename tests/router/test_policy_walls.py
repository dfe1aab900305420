"""Which tenants the planner may put on one device."""

from __future__ import annotations

import pytest

from partywall.domain.tenants import Quota, TrustPolicy
from router.policy.walls import wall_numbers


def quota(policy: TrustPolicy, group: str = "default") -> Quota:
    return Quota(trust_policy=policy, trust_group=group)


@pytest.mark.parametrize(
    ("first", "second", "floor", "together"),
    [
        (quota(TrustPolicy.PROCESS), quota(TrustPolicy.PROCESS), TrustPolicy.SHARED, True),
        (quota(TrustPolicy.PROCESS), quota(TrustPolicy.SHARED), TrustPolicy.SHARED, True),
        (quota(TrustPolicy.PROCESS), quota(TrustPolicy.PROCESS, "other"), TrustPolicy.SHARED, False),
        (quota(TrustPolicy.SHARED), quota(TrustPolicy.EXCLUSIVE), TrustPolicy.SHARED, False),
        (quota(TrustPolicy.HARDWARE), quota(TrustPolicy.HARDWARE), TrustPolicy.SHARED, False),
        (quota(TrustPolicy.SHARED), quota(TrustPolicy.SHARED), TrustPolicy.HARDWARE, False),
    ],
)
def test_only_those_that_trust_each_other_share_a_wall(
    first: Quota, second: Quota, floor: TrustPolicy, together: bool
) -> None:
    numbers = wall_numbers([("a", first), ("b", second)], floor)
    assert (numbers[0] == numbers[1]) is together


def test_one_tenants_models_stand_together() -> None:
    alone = quota(TrustPolicy.EXCLUSIVE)
    assert wall_numbers([("a", alone), ("b", alone), ("a", alone)]) == [0, 1, 0]
