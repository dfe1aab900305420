"""The trust rule: tables for the words of the vocabulary, properties for everything else."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isolation.trust import Clearance, Refusal, Resident, Wall, clear, clear_all, needed_wall, wall_between
from partywall.domain.fleet import Partition, PartitionKind
from partywall.domain.placements import Placement
from partywall.domain.tenants import TrustPolicy

STRICTEST_FIRST = list(TrustPolicy)
policies = st.sampled_from(STRICTEST_FIRST)
walls = st.sampled_from(list(Wall))
residents = st.builds(Resident, st.sampled_from("abcd"), policies, st.sampled_from(["red", "blue"]))


def tenant(name: str, policy: TrustPolicy = TrustPolicy.PROCESS, group: str = "default") -> Resident:
    return Resident(name, policy, group)


@pytest.mark.parametrize(
    ("policy", "weakest"),
    [
        (TrustPolicy.EXCLUSIVE, Wall.OWN_DEVICE),
        (TrustPolicy.HARDWARE, Wall.OWN_MIG_INSTANCE),
        (TrustPolicy.PROCESS, Wall.SAME_DEVICE),
        (TrustPolicy.SHARED, Wall.SAME_WORKER),
    ],
)
@pytest.mark.parametrize("wall", list(Wall))
def test_inside_a_group_each_policy_takes_its_wall_and_stronger_ones(
    policy: TrustPolicy, weakest: Wall, wall: Wall
) -> None:
    verdict = clear(tenant("a", policy), [tenant("b", TrustPolicy.SHARED)], TrustPolicy.SHARED, wall)
    assert isinstance(verdict, Clearance) == (wall >= weakest)


@pytest.mark.parametrize("wall", [Wall.SAME_WORKER, Wall.SAME_PARTITION, Wall.SAME_DEVICE])
def test_across_groups_only_mig_or_another_device(wall: Wall) -> None:
    one, other = tenant("a", TrustPolicy.SHARED, "red"), tenant("b", TrustPolicy.SHARED, "blue")
    assert isinstance(clear(one, [other], TrustPolicy.SHARED, wall), Refusal)
    assert isinstance(clear(one, [other], TrustPolicy.SHARED, Wall.OWN_MIG_INSTANCE), Clearance)


def test_a_refusal_names_the_pair_and_both_walls() -> None:
    verdict = clear(tenant("a"), [tenant("b")], TrustPolicy.HARDWARE, Wall.SAME_DEVICE)
    assert isinstance(verdict, Refusal)
    assert "tenant a beside b" in verdict.reason
    assert "floor is hardware" in verdict.reason
    assert (verdict.needed, verdict.offered) == (Wall.OWN_MIG_INSTANCE, Wall.SAME_DEVICE)


def test_a_tenant_is_no_neighbour_to_itself() -> None:
    alone = tenant("a", TrustPolicy.EXCLUSIVE)
    assert isinstance(clear(alone, [alone], TrustPolicy.EXCLUSIVE, Wall.SAME_WORKER), Clearance)


def test_residents_behind_different_walls_are_all_asked() -> None:
    exclusive = tenant("c", TrustPolicy.EXCLUSIVE)
    beside = {Wall.SAME_WORKER: [tenant("b", TrustPolicy.SHARED)], Wall.SAME_DEVICE: [exclusive]}
    verdict = clear_all(tenant("a", TrustPolicy.SHARED), beside, TrustPolicy.SHARED)
    assert isinstance(verdict, Refusal)
    assert verdict.beside == "c"


def test_a_clearance_cannot_be_built_without_the_rule() -> None:
    real = clear(tenant("a"), [], TrustPolicy.PROCESS, Wall.SAME_DEVICE)
    assert isinstance(real, Clearance)
    with pytest.raises(TypeError):
        Clearance("a", (), TrustPolicy.SHARED, object())
    with pytest.raises((TypeError, ValueError)):
        dataclasses.replace(real, tenant_id="b")  # type: ignore[call-arg]
    assert not hasattr(real, "rule")


@given(residents, residents, policies, walls, walls)
def test_a_stronger_wall_never_turns_a_clearance_into_a_refusal(
    one: Resident, other: Resident, floor: TrustPolicy, wall: Wall, stronger: Wall
) -> None:
    if stronger >= wall and isinstance(clear(one, [other], floor, wall), Clearance):
        assert isinstance(clear(one, [other], floor, stronger), Clearance)


@given(residents, residents, policies, policies, walls)
def test_a_stricter_floor_never_turns_a_refusal_into_a_clearance(
    one: Resident, other: Resident, floor: TrustPolicy, stricter: TrustPolicy, wall: Wall
) -> None:
    is_stricter = STRICTEST_FIRST.index(stricter) <= STRICTEST_FIRST.index(floor)
    if is_stricter and isinstance(clear(one, [other], floor, wall), Refusal):
        assert isinstance(clear(one, [other], stricter, wall), Refusal)


@given(residents, residents, policies)
def test_the_rule_is_symmetric(one: Resident, other: Resident, floor: TrustPolicy) -> None:
    assert needed_wall(one, other, floor) == needed_wall(other, one, floor)


@given(residents, st.lists(residents, max_size=6), policies, walls)
def test_many_residents_clear_exactly_when_each_does(
    one: Resident, others: list[Resident], floor: TrustPolicy, wall: Wall
) -> None:
    each = all(isinstance(clear(one, [other], floor, wall), Clearance) for other in others)
    assert isinstance(clear(one, others, floor, wall), Clearance) == each


@given(residents, residents, policies, walls)
def test_no_clearance_below_mig_across_groups(one: Resident, other: Resident, floor: TrustPolicy, wall: Wall) -> None:
    strangers = one.tenant_id != other.tenant_id and one.group != other.group
    if strangers and isinstance(clear(one, [other], floor, wall), Clearance):
        assert wall >= Wall.OWN_MIG_INSTANCE


def placement(node: str, kind: PartitionKind, partition: str, device: str, worker: str) -> Placement:
    return Placement("p", "t", "m", 1, node, Partition(partition, kind, device), worker, 0, 0)


@pytest.mark.parametrize(
    ("other", "wall"),
    [
        (placement("n", PartitionKind.MPS, "p1", "G", "w1"), Wall.SAME_WORKER),
        (placement("n", PartitionKind.MPS, "p1", "G", "w2"), Wall.SAME_PARTITION),
        (placement("n", PartitionKind.MPS, "p2", "G", "w2"), Wall.SAME_DEVICE),
        (placement("n", PartitionKind.MIG, "p2", "G", "w2"), Wall.SAME_DEVICE),
        (placement("n", PartitionKind.MPS, "p2", "H", "w2"), Wall.OWN_DEVICE),
        (placement("other", PartitionKind.MPS, "p1", "G", "w1"), Wall.OWN_DEVICE),
    ],
)
def test_wall_between_placements(other: Placement, wall: Wall) -> None:
    assert wall_between(placement("n", PartitionKind.MPS, "p1", "G", "w1"), other) == wall


def test_two_mig_partitions_of_one_gpu_are_hardware_walls() -> None:
    one = placement("n", PartitionKind.MIG, "p1", "G", "w1")
    assert wall_between(one, placement("n", PartitionKind.MIG, "p2", "G", "w2")) == Wall.OWN_MIG_INSTANCE
