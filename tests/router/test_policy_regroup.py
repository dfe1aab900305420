"""Moves apart and together: fast one way, slow the other, and never to and fro."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from regroup_town import HEAVY, LIGHT, Town
from sharing_world import GIB, Table

from isolation.trust import needed_wall, wall_between
from partywall.domain.tenants import TrustPolicy
from router.policy.placement import Operator
from router.policy.regroup import RegroupLimits, Why
from router.policy.sharing import effects
from router.policy.sharing_words import Sharing, Work


def heavy_pair(devices: int = 2, **more: float) -> Town:
    town = Town(devices, **{"h1": 0.5, "h2": 0.5, **more})
    town.put("h1", "gpu0")
    town.put("h2", "gpu0")
    return town


def test_two_that_cost_each_other_their_objective_are_moved_apart_after_a_while() -> None:
    town = heavy_pair()
    assert town.run(8) == []
    (wish,) = town.wishes
    assert not wish.due
    ((at_s, move),) = town.run(20)
    assert at_s <= 14
    assert move.why is Why.APART
    assert move.strain_now > 1.0 >= move.strain_then
    assert "an objective is missed" in move.reason
    assert {town.device("h1"), town.device("h2")} == {"gpu0", "gpu1"}


def test_idle_ones_are_left_together_and_parted_when_they_work() -> None:
    town = heavy_pair(h1=0.0, h2=0.0)
    assert town.run(300) == []
    town.traffic.update(h1=0.5, h2=0.5)
    assert len(town.run(20)) == 1


def test_a_short_risk_moves_nobody() -> None:
    town = heavy_pair(h1=0.0, h2=0.0)
    for _ in range(20):
        town.traffic.update(h1=0.5, h2=0.5)
        town.run(8)
        town.traffic.update(h1=0.0, h2=0.0)
        town.run(4)
    assert town.done == []


def test_what_is_observed_parts_even_where_the_profiles_promise_peace() -> None:
    town = Town(2, l1=0.5, l2=0.5)
    town.put("l1", "gpu0")
    town.put("l2", "gpu0")
    assert town.run(60) == []
    town.observed["l1"] = 1.7
    assert len(town.run(20)) == 1
    assert town.device("l1") != town.device("l2")


def test_where_no_other_place_is_better_it_says_so_and_stays() -> None:
    town = heavy_pair(1)
    assert town.run(60) == []
    (wish,) = town.wishes
    assert wish.due
    assert wish.target is None
    assert "no other place is better" in wish.reason
    # The other device is no better: whoever stands there suffers as much.
    full = heavy_pair(2, h3=0.5)
    full.put("h3", "gpu1", objective_s=0.012)
    assert full.run(60) == []


def test_the_one_whose_going_helps_is_chosen_and_the_lighter_to_load_of_two() -> None:
    town = Town(2, h1=0.5, l1=0.5, l2=0.5)
    town.put("l1", "gpu0", memory=2 * GIB)
    town.put("l2", "gpu0", memory=2 * GIB)
    town.put("h1", "gpu0", memory=20 * GIB, objective_s=0.050)
    ((_, move),) = town.run(30)
    assert move.placement.model_id == "h1"
    pair = Town(2, h1=0.5, h2=0.5)
    pair.put("h1", "gpu0", memory=20 * GIB)
    pair.put("h2", "gpu0", memory=2 * GIB)
    ((_, move),) = pair.run(30)
    assert move.placement.model_id == "h2"


def test_residents_of_two_devices_come_together_when_that_holds() -> None:
    town = Town(2, l1=0.2, l2=0.2)
    town.put("l1", "gpu0")
    town.put("l2", "gpu1")
    assert town.run(100) == []
    (wish,) = town.wishes
    assert wish.why is Why.TOGETHER
    assert not wish.due
    ((_, move),) = town.run(60)
    assert move.strain_then <= 1 / 1.3
    assert town.device("l1") == town.device("l2")
    assert town.run(2000) == []


def test_a_saving_that_comes_and_goes_is_not_taken() -> None:
    town = Town(2, l1=0.2, h1=0.0)
    town.put("l1", "gpu0")
    town.put("h1", "gpu1")
    for _ in range(10):
        town.traffic["h1"] = 0.0
        town.run(100)
        town.traffic["h1"] = 0.5
        town.run(4)
    assert town.done == []


def test_all_of_a_device_move_or_none() -> None:
    town = Town(2, l1=0.2, l2=0.2, l3=0.2, h1=0.5)
    town.put("l1", "gpu0")
    town.put("l2", "gpu0")
    town.put("l3", "gpu1")
    town.put("h1", "gpu1", objective_s=0.050)
    # They would bear each other only in part: h1 costs the light ones too much.
    town.traffic["h1"] = 0.0
    moves = town.run(200)
    assert len(moves) == 2
    assert len({s.placement.partition.device_id for s in town.fleet.standing}) == 1


def test_what_was_parted_is_not_joined_again_soon() -> None:
    town = heavy_pair()
    assert len(town.run(20)) == 1
    town.traffic.update(h1=0.0, h2=0.0)
    assert town.run(500) == []
    assert len(town.run(400)) == 1


def test_the_unmeasured_and_the_fixed_are_left_alone() -> None:
    town = Town(3, new=0.5, l1=0.2, l2=0.2)
    town.put("new", "gpu0")
    town.put("l1", "gpu1")
    town.put("l2", "gpu2")
    town.fixed = {"l1", "l2"}
    assert town.run(400) == []
    pair = heavy_pair()
    pair.fixed = {"h1"}
    assert pair.run(100) == []


MODELS = [*sorted(HEAVY | LIGHT), "new"]
houses = st.lists(
    st.tuples(
        st.sampled_from(MODELS),
        st.integers(0, 3),
        st.sampled_from([0.0, 0.012, 0.016, 0.030]),
        st.sampled_from([0.0, 0.05, 0.3, 0.9]),
        st.sampled_from([1, 10, 30]),
        st.sampled_from(["g1", "g1", "g2"]),
    ),
    min_size=1,
    max_size=8,
    unique_by=lambda one: one[0],
)


@given(houses, st.sampled_from([1.05, 1.15, 1.5]))
@settings(max_examples=40, deadline=None)
def test_steady_predictions_come_to_rest_and_moves_keep_trust_memory_and_objectives(
    drawn: list[tuple[str, int, float, float, int, str]], margin: float
) -> None:
    town = Town(4, RegroupLimits(margin=margin, rest_s=0.0, settle_s=4.0, hold_s=20.0))
    for model, device, objective_s, busy, memory, group in drawn:
        wanted = town.fleet.want(
            model, objective_s=objective_s, memory=memory * GIB, group=group, policy=TrustPolicy.PROCESS, busy=busy
        )
        town.traffic[model] = busy
        before = town.fleet.nodes
        town.fleet.nodes = [replace(n, devices=(n.devices[device],)) for n in before]
        town.fleet.add(wanted)
        town.fleet.nodes = before
        town.wants[model] = wanted
    broken = _broken(town)
    used = _used(town)
    moves = town.run(160)
    assert len(moves) <= 3 * len(drawn)
    assert town.run(200) == []
    assert _broken(town) <= broken
    if not any(m.why is Why.APART for _, m in moves):
        assert _used(town) <= used
    for one in town.fleet.standing:
        for other in town.fleet.standing:
            if one is not other:
                needed = needed_wall(one.resident, other.resident, Operator().floor)
                assert wall_between(one.placement, other.placement) >= needed
    for device in town.fleet.nodes[0].devices:
        here = [s for s in town.fleet.standing if s.placement.partition.device_id == device.id]
        assert sum(s.placement.memory_bytes for s in here) <= device.memory_bytes


def _used(town: Town) -> int:
    return len({s.placement.partition.device_id for s in town.fleet.standing})


def _broken(town: Town) -> int:
    """How many miss their objectives beside their neighbours."""
    bounds = town.fleet.bounds
    assert bounds is not None
    count = 0
    for device in town.fleet.nodes[0].devices:
        here = [r.tenancy for r in town.residents() if r.where == ("n1", device.id)]
        found = effects(here, device, bounds, town.fleet.operator.sharing)
        count += sum(e.sharing is Sharing.HARMFUL for e in found)
    return count


def test_nothing_known_nothing_moved() -> None:
    town = Town(2, h1=0.5, h2=0.5)
    town.fleet.bounds = Table()
    town.put("h1", "gpu0")
    town.put("h2", "gpu0")
    assert town.run(300) == []
    assert Work().busy == 1.0
