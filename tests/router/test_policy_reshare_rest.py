"""Shares cut anew under steady load come to rest, and nothing is broken on the way."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from reshare_world import Estate, Model, cpu, gpu

from isolation.trust import needed_wall, wall_between
from partywall.domain.fleet import DeviceKind
from router.policy.placement import Operator
from router.policy.regroup_words import RegroupLimits
from router.policy.reshare import ReshareLimits, Which
from router.policy.sharing_words import Sharing

estates = st.lists(
    st.tuples(
        st.sampled_from(["l1", "l2", "l3", "h1", "h2"]),
        st.integers(0, 2),
        st.sampled_from([10, 25, 50, 80]),
        st.sampled_from([1.0, 20.0, 60.0, 110.0, 200.0]),
        st.sampled_from([0.5, 1.0, 3.0]),
        st.sampled_from([20, 50, 100, 400]),
        st.sampled_from(["g1", "g1", "g2"]),
        st.booleans(),
    ),
    min_size=1,
    max_size=5,
    unique_by=lambda one: one[0],
)


@given(estates, st.booleans(), st.booleans(), st.sampled_from([0, 25, 60]))
@settings(max_examples=60, deadline=None)
def test_steady_load_settles_and_nothing_is_broken(
    drawn: list[tuple[str, int, int, float, float, int, str, bool]], on_cpu: bool, overcommit: bool, waiting: int
) -> None:
    """Nobody's units twice, never against trust, never in worse shape, and it comes to rest."""
    devices = [cpu(8, f"d{n}") if on_cpu else gpu(f"d{n}") for n in range(3)]
    models = {
        name: Model(rate=rate, cv=cv, objective_ms=slo, group=group, asked=asked)
        for name, _, _, rate, cv, slo, group, asked in drawn
    }
    estate = Estate(devices, models, operator=Operator(overcommit=overcommit), grouping=RegroupLimits())
    stood = []
    for name, device, share, *_ in drawn:
        try:
            estate.put(name, f"d{device}", share)
        except AssertionError:
            continue  # trust or its size speaks against it there
        stood.append(name)
    if waiting:
        estate.waiting = [estate.want("new", waiting)]
    asked = {name: estate.percent(name) for name in stood if models[name].asked}
    doubled = _doubled(estate)
    changes = estate.run(2000)
    assert len(changes) <= 4 * len(drawn)
    assert estate.run(1000) == []
    assert _doubled(estate) <= doubled
    for name, percent in asked.items():
        assert estate.percent(name) == percent
    for one in estate.standing:
        for other in estate.standing:
            if one is not other:
                needed = needed_wall(one.resident, other.resident, Operator().floor)
                assert wall_between(one.placement, other.placement) >= needed
    for device in devices:
        here = [s.placement for s in estate.standing if s.placement.partition.device_id == device.id]
        assert sum(p.memory_bytes for p in here) <= device.memory_bytes
        if device.kind is DeviceKind.GPU:
            assert sum({p.partition.id: p.partition.share_percent for p in here}.values()) <= 100
    for _, change in changes:
        small = change.which is Which.SHRINK
        assert (change.then.units <= ReshareLimits().band * change.cut.size.units) if small else True
        assert change.late_then <= 0.01
        assert change.target is not None
        assert all(c.sharing is not Sharing.HARMFUL for c in change.target.chosen)


def _doubled(estate: Estate) -> int:
    """How often a core is given to one more partition."""
    held: dict[tuple[str, int], set[str]] = {}
    for one in estate.standing:
        partition = one.placement.partition
        for core in partition.cores:
            held.setdefault((partition.device_id, core), set()).add(partition.id)
    return sum(len(users) - 1 for users in held.values())
