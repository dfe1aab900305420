"""Placement by the interference model: who shares, who is kept apart, and why."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sharing_world import GIB, SOLO_S, Fleet, Table, gpu

from isolation.trust import needed_wall, wall_between
from partywall.domain.tenants import TrustPolicy
from router.policy.choosing import model_ids, nameless, with_names
from router.policy.placement import Chosen, NoPlace, Operator, place
from router.policy.sharing import ALONE, Tenancy, effects, strain
from router.policy.sharing_words import Estimate, Sharing, SharingLimits, Work
from router.policy.wants import Placing

HEAVY, LIGHT = frozenset({"h1", "h2", "h3"}), frozenset({"l1", "l2", "l3", "l4"})
LIMITS = SharingLimits()


def fleet(devices: int = 2, placing: Placing = Placing.BEST_EFFORT) -> Fleet:
    gpus = [gpu(f"gpu{n}") for n in range(devices)]
    return Fleet(*gpus, bounds=Table(HEAVY, LIGHT), operator=Operator(placing=placing))


def test_heavy_models_are_kept_apart_and_light_ones_share() -> None:
    world = fleet(3)
    for name in ("l1", "l2", "l3"):
        world.must(world.want(name))
    assert {world.device(name) for name in ("l1", "l2", "l3")} == {"gpu0"}
    world.must(world.want("h1"))
    world.must(world.want("h2"))
    assert len({world.device(name) for name in ("l1", "h1", "h2")}) == 3


def test_a_light_model_that_bears_it_joins_a_heavy_one_rather_than_open_a_device() -> None:
    world = fleet(2)
    world.must(world.want("h1"))
    # Twice its solo time is within its objective, and it costs the heavy one next to nothing.
    chosen = world.must(world.want("l1", objective_s=0.030))
    assert chosen.partition.device_id == world.device("h1") == "gpu0"
    assert "slowdown 1.40 x, at most 1.80 x" in chosen.reason


def test_the_reason_of_each_alternative_tells_for_whom_it_is_too_much() -> None:
    world = fleet(2)
    world.must(world.want("h1"))
    chosen = world.must(world.want("h2"))
    (refused,) = [a for a in chosen.alternatives if not a.chosen]
    assert "too much for itself, <model:h1>" in refused.reason
    assert "at most 1.80 x" in refused.reason
    assert model_ids(refused.reason) == ["h1", "h1"]
    assert "h1" not in nameless(refused.reason)
    assert "a resident" in nameless(refused.reason)
    assert "acme/bert" in with_names(refused.reason, {"h1": "acme/bert"})
    assert "<model" not in chosen.reason
    (taken,) = [a for a in chosen.alternatives if a.chosen]
    assert taken.reason.endswith("nobody else is on the device")


def test_where_no_place_is_acceptable_it_goes_where_the_harm_is_least() -> None:
    world = fleet(2)
    world.must(world.want("h1"))
    world.must(world.want("h2", objective_s=0.017))
    chosen = world.must(world.want("h3", objective_s=0.030))
    assert chosen.partition.device_id == world.device("h2")
    assert "the predicted harm is least" in chosen.reason


def test_a_strict_operator_lets_it_wait() -> None:
    world = fleet(2, Placing.STRICT)
    world.must(world.want("h1"))
    world.must(world.want("h2"))
    refused = world.add(world.want("h3"))
    assert isinstance(refused, NoPlace)
    assert not refused.permanent
    assert "--placement strict" in refused.reason
    assert all("too much for" in a.reason for a in refused.alternatives)


def test_an_unmeasured_model_is_isolated_until_it_is_measured() -> None:
    world = fleet(3)
    world.must(world.want("l1"))
    chosen = world.must(world.want("new"))
    assert chosen.partition.device_id != world.device("l1")
    assert "partywall profile MODEL" in chosen.reason
    # Nobody joins it either, until no other place is left.
    world.must(world.want("h1", objective_s=0.012))
    assert world.device("h1") == "gpu2"
    last = world.must(world.want("new2"))
    assert "no other place is free" in last.reason


def test_an_unmeasured_model_goes_where_the_fewest_are() -> None:
    world = fleet(2)
    world.must(world.want("l1"))
    world.must(world.want("l2"))
    world.must(world.want("h1"))
    assert world.device("l1") == world.device("l2") == "gpu0"
    assert world.must(world.want("new")).partition.device_id == "gpu1"


def test_without_any_profile_places_are_as_without_the_model() -> None:
    blind, plain = Fleet(gpu("a"), gpu("b"), bounds=Table()), Fleet(gpu("a"), gpu("b"))
    for name in ("h1", "h2", "l1", "new"):
        one, two = blind.must(blind.want(name)), plain.must(plain.want(name))
        assert (one.partition, one.reason, one.alternatives) == (two.partition, two.reason, two.alternatives)
    assert blind.bounds is not None
    assert not blind.bounds.asked


def test_the_load_counts_not_only_one_batch() -> None:
    # 60 % of the time at 1.0 x is enough; at 1.8 x no more, whatever the one batch takes.
    world = fleet(2)
    world.must(world.want("l1", objective_s=0.050, rate=60.0, busy=0.6))
    chosen = world.must(world.want("h1", objective_s=0.100))
    assert chosen.partition.device_id != world.device("l1")
    idle = fleet(2)
    idle.must(idle.want("l1", objective_s=0.050, rate=6.0, busy=0.1))
    assert idle.must(idle.want("h1", objective_s=0.100)).partition.device_id == idle.device("l1")


def test_a_neighbour_that_hardly_runs_costs_the_tail_only_where_it_is_seen() -> None:
    world = fleet(1)
    quiet = Tenancy.of(world.stand(world.want("h1", busy=0.005), world.must(world.want("h1", busy=0.005))))
    victim = Tenancy("v", "l1", 1, world.must(world.want("l1")).partition, "w", Work(0.012))
    assert world.bounds is not None
    (effect, _) = effects([victim, quiet], gpu("gpu0"), world.bounds, LIMITS)
    assert effect.sharing is Sharing.ACCEPTABLE


def test_one_that_is_too_slow_alone_is_not_made_much_slower() -> None:
    world = fleet(2)
    world.must(world.want("l1", objective_s=0.008))
    assert world.must(world.want("l2", objective_s=0.050)).partition.device_id == world.device("l1")
    assert world.must(world.want("h1", objective_s=0.050)).partition.device_id != world.device("l1")


def test_without_an_objective_a_slowdown_of_two_is_borne() -> None:
    world = fleet(2)
    world.must(world.want("l1", objective_s=0.0))
    assert world.must(world.want("h1", objective_s=0.0)).partition.device_id == world.device("l1")
    assert world.must(world.want("h2", objective_s=0.0)).partition.device_id != world.device("l1")


def test_a_great_fleet_is_not_searched_to_its_end_once_a_place_is_known() -> None:
    world = fleet(600)
    world.must(world.want("l1"))
    assert world.bounds is not None
    before = world.bounds.asked
    chosen = world.must(world.want("l2"))
    assert len([a for a in chosen.alternatives if "slowdown" in a.reason or "nobody" in a.reason]) <= 201
    assert world.bounds.asked - before < 20


@pytest.mark.parametrize("rate", [0.0, 5.0, 20.0])
def test_strain_is_one_where_the_objective_is_just_met(rate: float) -> None:
    work = Work(0.030, 1.0, rate)
    limit = 1 / strain(SOLO_S, ALONE, work, LIMITS)
    assert limit > 1
    assert strain(SOLO_S, Estimate(limit, limit, limit), work, LIMITS) == pytest.approx(1.0, abs=1e-3)
    assert strain(SOLO_S, Estimate(limit, limit, 1.2 * limit), work, LIMITS) > 1.0
    assert math.isinf(strain(SOLO_S, Estimate(1.0, math.inf, math.inf), work, LIMITS))


MODELS = ("h1", "h2", "h3", "l1", "l2", "l3", "l4", "new1", "new2")
wants = st.lists(
    st.tuples(
        st.sampled_from(MODELS),
        st.sampled_from([0.0, 0.008, 0.012, 0.015, 0.020, 0.050]),
        st.sampled_from([0.0, 5.0, 30.0, 70.0]),
        st.floats(0, 1),
        st.integers(1, 40),
        st.sampled_from(list(TrustPolicy)),
        st.sampled_from(["g1", "g1", "g1", "g2"]),
        st.sampled_from([10, 25, 50]),
    ),
    min_size=1,
    max_size=10,
    unique_by=lambda one: one[0],
)


@given(wants, st.integers(1, 4), st.sampled_from(list(Placing)))
@settings(max_examples=150, deadline=None)
def test_never_against_trust_nor_over_memory_and_no_objective_is_broken_where_another_place_is_acceptable(
    drawn: list[tuple[str, float, float, float, int, TrustPolicy, str, int]], devices: int, placing: Placing
) -> None:
    world = fleet(devices, placing)
    bounds = world.bounds
    assert bounds is not None
    for model, objective_s, rate, busy, memory, policy, group, share in drawn:
        wanted = world.want(
            model, objective_s=objective_s, rate=rate, busy=busy, memory=memory * GIB, policy=policy, group=group,
            share=share,
        )  # fmt: skip
        options = _acceptable_devices(world, wanted)
        chosen = world.add(wanted)
        if not isinstance(chosen, Chosen):
            assert not options
            continue
        if options:
            assert chosen.partition.device_id in options
            if any(_residents(world, d, but=wanted.model_id) for d in options):
                assert _residents(world, chosen.partition.device_id, but=wanted.model_id)
        else:
            assert placing is Placing.BEST_EFFORT
        again = place(wanted, world.nodes, world.standing[:-1], world.operator, lambda p: f"{p}-again", bounds=bounds)
        assert isinstance(again, Chosen)
        assert again.partition.device_id == chosen.partition.device_id
    for one in world.standing:
        for other in world.standing:
            if one is not other:
                needed = needed_wall(one.resident, other.resident, world.operator.floor)
                assert wall_between(one.placement, other.placement) >= needed
    for device in world.nodes[0].devices:
        held = sum(s.placement.memory_bytes for s in world.standing if s.placement.partition.device_id == device.id)
        assert held <= device.memory_bytes


def _residents(world: Fleet, device: str, but: str = "") -> list[Tenancy]:
    here = [s for s in world.standing if s.placement.partition.device_id == device and s.placement.model_id != but]
    return [Tenancy.of(s) for s in here]


def _acceptable_devices(world: Fleet, wanted: object) -> set[str]:
    """Devices that would be acceptable, each asked as if it were the only one."""
    found = set()
    for device in world.nodes[0].devices:
        alone = Fleet(device, bounds=world.bounds, operator=Operator(placing=Placing.STRICT))
        alone.prefix = "alone-"
        alone.standing = [s for s in world.standing if s.placement.partition.device_id == device.id]
        if isinstance(alone.look(wanted), Chosen):  # type: ignore[arg-type]
            found.add(device.id)
    return found
