"""Where replicas go on GPUs: cut by MPS with caps, into MIG instances that stand, or whole."""

from __future__ import annotations

from dataclasses import replace

from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st
from placement_wants import want
from sharing_world import GIB, Fleet, gpu

from partywall.domain.fleet import Device, DeviceKind, Instance, PartitionKind
from partywall.domain.tenants import TrustPolicy
from router.policy.placement import NoPlace

H100 = gpu("GPU-1")


def test_a_gpu_with_a_daemon_is_cut_by_mps_with_caps() -> None:
    fleet = Fleet(H100)
    one, two = fleet.must(want("a")), fleet.must(want("b", share_percent=50))
    assert (one.partition.kind, one.partition.share_percent, one.partition.memory_bytes) == (
        PartitionKind.MPS, 25, 20 * GIB,
    )  # fmt: skip
    assert (two.partition.share_percent, two.partition.memory_bytes) == (50, 40 * GIB)
    refused = fleet.add(want("c", share_percent=30))
    assert isinstance(refused, NoPlace)
    assert "30 % of the SMs are asked for and 25 % are free" in refused.reason


def test_a_gpu_without_a_daemon_is_given_whole() -> None:
    alone = replace(H100, kinds=(PartitionKind.WHOLE,))
    assert Fleet(alone).must(want("a")).partition.kind is PartitionKind.WHOLE


def test_who_shares_with_nobody_gets_the_gpu_whole() -> None:
    fleet = Fleet(H100)
    assert fleet.must(want("a", TrustPolicy.EXCLUSIVE)).partition.kind is PartitionKind.WHOLE
    assert isinstance(fleet.add(want("b")), NoPlace)


def test_a_second_model_goes_into_its_tenants_share_while_the_cap_holds_it() -> None:
    fleet = Fleet(H100)
    one = fleet.must(want("a"))
    assert fleet.must(want("a", memory_bytes=10 * GIB)).partition == one.partition
    assert fleet.must(want("a", memory_bytes=12 * GIB)).partition != one.partition


@examples(60)
@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 60), st.integers(1, 30)), max_size=14))
def test_shares_and_caps_of_a_gpu_are_never_overcommitted(wants: list[tuple[str, int, int]]) -> None:
    fleet = Fleet(H100)
    for tenant, share, memory in wants:
        fleet.add(want(tenant, share_percent=share, memory_bytes=memory * GIB))
        partitions = {s.placement.partition for s in fleet.standing}
        assert sum(p.share_percent for p in partitions) <= 100
        assert sum(p.memory_bytes for p in partitions) <= 80 * GIB
        for p in partitions:
            inside = sum(s.placement.memory_bytes for s in fleet.standing if s.placement.partition == p)
            assert inside <= p.memory_bytes


def sliced() -> Device:
    instances = (Instance(9, 0, 40 * GIB, 60), Instance(19, 4, 10 * GIB, 16), Instance(19, 5, 10 * GIB, 16))
    return Device("GPU-1", DeviceKind.GPU, "H100", 80 * GIB, 132, (), (PartitionKind.MIG,), instances)


def test_instances_that_stand_are_used_the_smallest_that_is_enough() -> None:
    fleet = Fleet(sliced())
    one = fleet.must(want("a", TrustPolicy.HARDWARE))
    assert (one.partition.kind, one.partition.id.endswith("mig-19-4")) == (PartitionKind.MIG, True)
    assert fleet.must(want("b", group="other")).partition.id.endswith("mig-19-5")
    assert fleet.must(want("c", memory_bytes=20 * GIB)).partition.id.endswith("mig-9-0")
    none = fleet.add(want("d"))
    assert isinstance(none, NoPlace)
    assert "no free MIG instance is large enough (0 of 3 are free)" in none.reason


def test_a_share_asks_for_a_large_enough_instance() -> None:
    assert Fleet(sliced()).must(want("a", share_percent=25)).partition.id.endswith("mig-9-0")
    assert isinstance(Fleet(sliced()).add(want("a", share_percent=60)), NoPlace)


def test_who_shares_with_nobody_does_not_go_beside_other_instances() -> None:
    fleet = Fleet(sliced())
    fleet.must(want("a"))
    assert isinstance(fleet.add(want("b", TrustPolicy.EXCLUSIVE)), NoPlace)
