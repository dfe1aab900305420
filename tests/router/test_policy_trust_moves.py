"""Which replicas a change of trust moves."""

from __future__ import annotations

import itertools
from dataclasses import replace

from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st
from placement_wants import TENANTS, cpu, want
from sharing_world import Fleet

from isolation.trust import Resident, needed_wall, wall_between
from partywall.domain.tenants import TrustPolicy
from router.policy.placement import Standing, to_move

POLICIES = st.sampled_from(list(TrustPolicy))


@examples(60)
@given(st.lists(TENANTS, max_size=10), st.data())
def test_after_a_change_of_trust_what_stays_is_cleared(wants: list[tuple[str, int, int]], data: st.DataObject) -> None:
    fleet = Fleet(cpu(4), cpu(4, name="cpu1"))
    for tenant, share, _ in wants:
        fleet.add(want(tenant, share_percent=share))
    changed = {t: (data.draw(POLICIES), data.draw(st.sampled_from("gh"))) for t in "abcd"}
    after = [
        Standing(s.placement, Resident(s.resident.tenant_id, *changed[s.resident.tenant_id])) for s in fleet.standing
    ]
    gone = {p.id for p in to_move(after, TrustPolicy.SHARED)}
    left = [s for s in after if s.placement.id not in gone]
    for one, other in itertools.combinations(left, 2):
        needed = needed_wall(one.resident, other.resident, TrustPolicy.SHARED)
        assert wall_between(one.placement, other.placement) >= needed
    assert to_move(left, TrustPolicy.SHARED) == []


def test_nothing_moves_while_nothing_changes() -> None:
    fleet = Fleet(cpu(4))
    for tenant in "abc":
        fleet.must(want(tenant))
    assert to_move(fleet.standing, TrustPolicy.SHARED) == []


def test_trust_of_a_large_fleet_is_settled_device_by_device() -> None:
    fleet = Fleet(*(cpu(2, name=f"cpu{at}") for at in range(40)))
    for at in range(80):
        fleet.must(want(f"t{at}"))
    strict = [
        replace(s, resident=replace(s.resident, policy=TrustPolicy.EXCLUSIVE)) if at % 10 == 0 else s
        for at, s in enumerate(fleet.standing)
    ]
    gone = {p.id for p in to_move(strict, TrustPolicy.SHARED)}
    assert gone == {s.placement.id for s in strict if s.resident.policy is TrustPolicy.EXCLUSIVE}
