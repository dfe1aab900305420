"""Shares cut anew: smaller slowly, and only for somebody who gains by it."""

from __future__ import annotations

from dataclasses import replace

from reshare_world import Estate, Model, cpu, gpu, pair

from router.policy.regroup_words import RegroupLimits
from router.policy.reshare import Which

# One core of four takes 17 ms a row: enough for 30 a second, and for 10 with headroom. Two: for 100 and 60.


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
