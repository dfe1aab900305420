"""Shares cut anew: larger fast, where that helps and is nobody else's, and left alone where it is not ours to cut."""

from __future__ import annotations

import pytest
from reshare_world import Estate, Model, cpu, gpu, pair
from sharing_world import GIB

from partywall.domain.fleet import Device, DeviceKind, Instance, PartitionKind
from router.policy.reshare import Which

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
