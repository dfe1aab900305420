"""Shares cut anew: larger fast, smaller slowly and only for somebody, and never to and fro."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reshare_world import Estate, Model, cpu, gpu, pair
from sharing_world import GIB

from isolation.trust import needed_wall, wall_between
from partywall.domain.fleet import Device, DeviceKind, Instance, PartitionKind
from router.policy.placement import Operator
from router.policy.regroup_words import RegroupLimits
from router.policy.reshare import Cut, ReshareLimits, Which
from router.policy.reshare_curve import late, solo_s
from router.policy.sharing_words import Sharing

# One core of four takes 17 ms a row: enough for 30 a second, and for 10 with headroom. Two: for 100 and 60.


def test_a_share_that_is_too_small_grows_after_a_short_while() -> None:
    estate = pair(rate=10.0)
    assert estate.run(600) == []
    estate.models["m"].rate = 55.0
    assert estate.run(9) == []
    (wish,) = estate.wishes
    assert not wish.due
    ((at_s, done),) = estate.run(60)
    assert at_s <= 600 + 10 + 15
    assert done.which is Which.GROW
    assert done.late_now > 0.01 >= done.late_then
    assert "expected too late at 1 core(s)" in done.reason
    assert estate.percent("m") in (50, 75)


def test_at_once_where_the_objective_is_missed_and_the_replica_is_busy() -> None:
    estate = pair(rate=55.0, at_risk=True)
    ((at_s, _),) = estate.run(5)
    assert at_s == 5.0


def test_missed_for_another_reason_is_not_cured_by_a_share() -> None:
    estate = pair(rate=5.0, at_risk=True)
    assert estate.run(600) == []
    assert estate.wishes == []


def test_the_least_share_that_does_with_headroom() -> None:
    estate = pair(rate=55.0)
    estate.run(60)
    assert estate.percent("m") == 50
    more = pair(rate=100.0)
    more.run(60)
    # Two cores are enough for what is forecast, but without headroom.
    assert more.percent("m") == 75


def test_room_for_the_next_tenant_stays_unless_another_device_is_empty() -> None:
    estate = Estate([cpu(2)], {"m": Model(rate=150.0)})
    estate.put("m", "cpu", 50)
    assert estate.run(120) == []
    (wish,) = estate.wishes
    assert wish.due
    assert wish.target is None
    assert "next tenant" in wish.reason
    two = Estate([cpu(2), cpu(2, "other")], {"m": Model(rate=150.0)})
    two.put("m", "cpu", 50)
    assert len(two.run(120)) == 1
    assert two.percent("m") == 100


def test_units_of_others_are_never_taken() -> None:
    estate = Estate([cpu(4)], {"m": Model(rate=55.0), "n": Model(rate=1.0, asked=True)})
    estate.put("n", "cpu", 75)
    estate.put("m", "cpu", 25)
    assert estate.run(300) == []
    assert estate.wishes[0].target is None
    assert "are taken" in estate.wishes[0].reason


def test_another_replica_goes_first_where_it_is_cheaper() -> None:
    estate = pair(rate=55.0)
    estate.replica_units = {"m": 20}
    assert estate.run(120) == []
    assert estate.wishes == []
    estate.replica_units = {"m": 25}
    assert len(estate.run(120)) == 1


def test_neighbours_that_would_pay_for_it_keep_it_small() -> None:
    for objective_ms, percent in ((400, 45), (60, 25)):
        models = {"h1": Model(rate=55.0), "l1": Model(rate=8.0, objective_ms=objective_ms, asked=True)}
        estate = Estate([gpu("g")], models)
        estate.put("h1", "g", 25)
        estate.put("l1", "g", 25)
        estate.run(60)
        assert estate.percent("h1") == percent
    (wish,) = estate.wishes
    assert "it would cost its neighbours their objectives" in wish.reason
    assert len(wish.looked_at) > 1


def test_it_shrinks_slowly_and_only_for_somebody() -> None:
    estate = pair(rate=55.0)
    estate.run(60)
    assert estate.percent("m") == 50
    estate.models["m"].rate = 5.0
    assert estate.run(1000) == []
    assert estate.wishes == []
    # Somebody waits for a place that needs three of the four cores.
    estate.operator = replace(estate.operator, overcommit=False)
    estate.waiting = [estate.want("new", 75)]
    estate.models["new"] = Model()
    ((_, done),) = estate.run(300)
    assert done.which is Which.SHRINK
    assert "<model:new> waits for a place" in done.reason
    assert "1 core(s) would do at 1.3 x rate and burstiness" in done.reason
    assert estate.percent("m") == 25


def test_it_must_hold_without_a_break() -> None:
    estate = pair(rate=55.0)
    estate.run(60)
    estate.operator = replace(estate.operator, overcommit=False)
    estate.waiting = [estate.want("new", 75)]
    for _ in range(10):
        estate.models["m"].rate = 5.0
        estate.run(100)
        estate.models["m"].rate = 80.0
        estate.run(5)
    assert len(estate.done) == 1
    estate.models["m"].rate = 5.0
    estate.run(100)
    (wish,) = estate.wishes
    assert not wish.due
    assert wish.held_s > 60


def test_it_shrinks_for_a_neighbour_whose_share_is_too_small() -> None:
    estate = Estate([cpu(4)], {"m": Model(rate=5.0), "n": Model(rate=55.0)})
    estate.put("m", "cpu", 75)
    estate.put("n", "cpu", 25)
    first, second = estate.run(400)
    assert (first[1].which, second[1].which) == (Which.SHRINK, Which.GROW)
    assert "<model:n> needs a larger share" in first[1].reason
    assert estate.percent("n") == 50
    assert second[0] - first[0] >= 30


def test_it_shrinks_where_cores_are_shared_in_time() -> None:
    estate = Estate([cpu(4)], {"m": Model(rate=5.0), "n": Model(rate=5.0)})
    estate.put("m", "cpu", 100)
    estate.put("n", "cpu", 25)
    shrunk = [d for _, d in estate.run(600) if d.which is Which.SHRINK]
    assert shrunk
    assert "shared in time" in shrunk[0].reason
    assert estate.percent("m") == 25


def test_it_shrinks_so_that_another_device_can_be_emptied() -> None:
    models = {"l1": Model(rate=2.0), "l2": Model(rate=2.0)}
    estate = Estate([gpu("a"), gpu("b")], models, grouping=RegroupLimits())
    estate.put("l1", "a", 80)
    estate.put("l2", "b", 25)
    ((_, done),) = estate.run(400)
    assert "all of n1/b would then fit here" in done.reason


@pytest.mark.parametrize("kept", ["asked", "fixed", "unknown", "changing"])
def test_left_alone(kept: str) -> None:
    estate = pair(rate=55.0)
    model = estate.models["m"]
    model.asked, model.fixed, model.known, model.steady = (
        kept == "asked", kept == "fixed", kept != "unknown", kept != "changing",
    )  # fmt: skip
    assert estate.run(300) == []
    assert estate.wishes == []


def test_a_second_model_without_a_profile_keeps_the_partition_as_it_is() -> None:
    models = {"m": Model(rate=55.0, owner="t"), "n": Model(known=False, owner="t")}
    estate = Estate([cpu(4)], models)
    estate.put("m", "cpu", 0)
    estate.put("n", "cpu", 0)
    assert len({s.placement.partition.id for s in estate.standing}) == 1
    assert estate.run(300) == []
    models["n"].known = True
    ((_, done),) = estate.run(60)
    assert len(done.cut.holdings) == 2
    assert len({s.placement.partition.id for s in estate.standing}) == 1


def test_a_larger_mig_instance_that_stands_free_is_taken() -> None:
    small, large = Instance(19, 0, 10 * GIB, 33), Instance(9, 4, 40 * GIB, 66)
    device = Device("g", DeviceKind.GPU, "H100", 80 * GIB, 132, (), (PartitionKind.MIG,), (small, large))
    estate = Estate([device], {"m": Model(rate=55.0), "n": Model(rate=1.0)})
    estate.put("m", "g", 0)
    assert estate.percent("m") == 25
    estate.put("n", "g", 50)
    assert estate.run(60) == []
    assert "no free MIG instance is large enough" in estate.wishes[0].reason
    del estate.standing[1]
    estate.run(60)
    assert estate.percent("m") == 50


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
