"""Where replicas go."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st
from placement_wants import TENANTS, cpu, want
from sharing_world import GIB, Fleet

from isolation.trust import Wall, needed_wall, wall_between
from partywall.domain.fleet import Device, DeviceKind, Partition, PartitionKind
from partywall.domain.placements import Placement
from partywall.domain.tenants import TrustPolicy
from router.policy.placement import Chosen, NoPlace, Operator, Standing, core_count, place


def test_two_tenants_get_cores_of_their_own() -> None:
    fleet = Fleet(cpu(2))
    one, two = fleet.must(want("a")), fleet.must(want("b"))
    assert one.partition.kind is two.partition.kind is PartitionKind.CPUSET
    assert one.partition.cores == (0,)
    assert two.partition.cores == (1,)
    assert one.worker_id != two.worker_id


def test_a_second_model_stays_in_its_tenants_partition() -> None:
    fleet = Fleet(cpu(4))
    one, two = fleet.must(want("a")), fleet.must(want("a"))
    assert one.partition == two.partition
    assert one.worker_id != two.worker_id


def test_shared_tenants_of_a_group_share_a_worker() -> None:
    fleet = Fleet(cpu(4))
    one = fleet.must(want("a", TrustPolicy.SHARED))
    two = fleet.must(want("b", TrustPolicy.SHARED))
    assert one.partition.kind is PartitionKind.WHOLE
    assert one.worker_id == two.worker_id


def test_other_trust_groups_need_another_device() -> None:
    fleet = Fleet(cpu(4))
    fleet.must(want("a", group="g1"))
    refused = fleet.add(want("b", group="g2"))
    assert isinstance(refused, NoPlace)
    assert not refused.permanent
    assert "trust" in refused.reason
    assert "'a'" not in refused.reason
    two = Fleet(cpu(2), cpu(2, name="cpu1"))
    assert two.must(want("a", group="g1")).partition.device_id != two.must(want("b", group="g2")).partition.device_id


def test_an_exclusive_tenant_keeps_others_out() -> None:
    fleet = Fleet(cpu(4))
    fleet.must(want("a", TrustPolicy.EXCLUSIVE))
    assert isinstance(fleet.add(want("b")), NoPlace)


def test_the_operators_floor_counts() -> None:
    fleet = Fleet(cpu(4), operator=Operator(floor=TrustPolicy.PROCESS))
    one = fleet.must(want("a", TrustPolicy.SHARED))
    assert isinstance(fleet.add(want("b", TrustPolicy.SHARED)), NoPlace)
    assert one.partition.kind is PartitionKind.WHOLE


def test_too_large_for_every_device_is_for_good() -> None:
    refused = Fleet(cpu(4)).add(want(memory_bytes=9 * GIB))
    assert isinstance(refused, NoPlace)
    assert refused.permanent
    assert "largest device has 8,192 MiB" in refused.reason


def test_full_memory_is_not_for_good() -> None:
    fleet = Fleet(cpu(4))
    fleet.must(want("a", memory_bytes=6 * GIB))
    refused = fleet.add(want("b", memory_bytes=4 * GIB))
    assert isinstance(refused, NoPlace)
    assert not refused.permanent
    assert "2,048 MiB free" in refused.reason


def test_the_memory_quota_refuses_and_caps() -> None:
    fleet = Fleet(cpu(4))
    one = fleet.must(want("a", memory_bytes=2 * GIB, memory_quota_bytes=3 * GIB))
    assert one.partition.memory_bytes == 3 * GIB
    refused = fleet.add(want("a", memory_bytes=2 * GIB, memory_quota_bytes=3 * GIB))
    assert isinstance(refused, NoPlace)
    assert "quota" in refused.reason


def test_no_free_core_is_shared_in_time_and_said_so() -> None:
    fleet = Fleet(cpu(1))
    fleet.must(want("a"))
    second = fleet.must(want("b"))
    assert "shared in time" in second.reason
    strict = Fleet(cpu(1), operator=Operator(overcommit=False))
    strict.must(want("a"))
    assert isinstance(strict.add(want("b")), NoPlace)


def test_no_node_online() -> None:
    refused = place(want(), [], [], Operator(), lambda p: p)
    assert isinstance(refused, NoPlace)
    assert "no node is online" in refused.reason


def test_the_chosen_alternative_is_marked() -> None:
    fleet = Fleet(cpu(2), cpu(4, name="cpu1"))
    chosen = fleet.must(want(share_percent=100))
    assert [a.chosen for a in chosen.alternatives].count(True) == 1
    assert chosen.partition.device_id == "cpu1"


@pytest.mark.parametrize(
    ("cores", "share", "count"), [(2, 0, 1), (16, 0, 4), (2, 50, 1), (2, 100, 2), (8, 33, 3), (1, 1, 1)]
)
def test_core_count(cores: int, share: int, count: int) -> None:
    assert core_count(cpu(cores), share) == count


@examples(60)
@given(st.lists(TENANTS, max_size=14), st.data())
def test_never_over_memory_never_against_trust(wants: list[tuple[str, int, int]], data: st.DataObject) -> None:
    policy = {t: data.draw(st.sampled_from(list(TrustPolicy)), label=t) for t in "abcd"}
    group = {t: data.draw(st.sampled_from(["g1", "g2"]), label=f"group {t}") for t in "abcd"}
    fleet = Fleet(cpu(2), Device("gpu0", DeviceKind.GPU, "GPU", 8 * GIB, 132))
    for tenant, share, gib in wants:
        fleet.add(want(tenant, policy[tenant], group[tenant], share_percent=share, memory_bytes=gib * GIB))
    for device in fleet.nodes[0].devices:
        used = sum(s.placement.memory_bytes for s in fleet.standing if s.placement.partition.device_id == device.id)
        assert used <= device.memory_bytes
    for one, other in itertools.combinations(fleet.standing, 2):
        wall = wall_between(one.placement, other.placement)
        assert wall >= needed_wall(one.resident, other.resident, fleet.operator.floor), (one, other)


def test_partition_of_a_worker_is_one() -> None:
    assert wall_between(
        Placement("1", "a", "m", 1, "n", Partition("x", PartitionKind.WHOLE, "d"), "w", 0, 0),
        Placement("2", "b", "m", 1, "n", Partition("x", PartitionKind.WHOLE, "d"), "w", 0, 0),
    ) is Wall.SAME_WORKER  # fmt: skip


class Counted(list[Standing]):
    """Counts how often everything that stands is gone through."""

    walks = 0

    def __iter__(self) -> Iterator[Standing]:
        self.walks += 1
        return super().__iter__()


@pytest.mark.parametrize("devices", [10, 80])
def test_a_placement_looks_at_the_fleet_a_few_times_however_large_it_is(devices: int) -> None:
    fleet = Fleet(*(cpu(2, name=f"cpu{at}") for at in range(devices)))
    for at in range(devices):
        fleet.must(want(f"t{at}"))
    standing = Counted(fleet.standing)
    answer = place(want("new"), fleet.nodes, standing, fleet.operator, lambda p: f"{p}-new")
    assert isinstance(answer, Chosen)
    assert standing.walks <= 3
    assert len(answer.clearance.walls) == devices, "trust was asked about everybody all the same"
    assert len(answer.alternatives) == devices
