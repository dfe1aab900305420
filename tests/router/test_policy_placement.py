"""Where replicas go."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

import pytest
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st

from isolation.trust import Resident, Wall, needed_wall, wall_between
from partywall.domain.fleet import Device, DeviceKind, Instance, Partition, PartitionKind
from partywall.domain.placements import Placement
from partywall.domain.tenants import TrustPolicy
from router.policy.placement import Chosen, NodeView, NoPlace, Operator, Standing, Want, core_count, place, to_move

GIB = 1 << 30


def cpu(cores: int = 4, memory: int = 8 * GIB, name: str = "cpu0") -> Device:
    return Device(name, DeviceKind.CPU, "CPU", memory, cores, tuple(range(cores)))


def want(tenant: str = "a", policy: TrustPolicy = TrustPolicy.PROCESS, group: str = "g", **more: object) -> Want:
    values: dict[str, object] = {"memory_bytes": GIB, "weights_bytes": 90 << 20, **more}
    return Want(Resident(tenant, policy, group), f"model-{tenant}", 1, **values)  # type: ignore[arg-type]


class Fleet:
    """Places one want after another and remembers."""

    def __init__(self, *devices: Device, operator: Operator | None = None) -> None:
        self.nodes = [NodeView("n1", devices)]
        self.operator = operator or Operator()
        self.standing: list[Standing] = []
        self._ids = itertools.count()

    def add(self, wanted: Want) -> Chosen | NoPlace:
        answer = place(wanted, self.nodes, self.standing, self.operator, lambda p: f"{p}{next(self._ids)}")
        if isinstance(answer, Chosen):
            placement = Placement(
                f"p{next(self._ids)}", wanted.resident.tenant_id, wanted.model_id, 1, answer.node, answer.partition,
                answer.worker_id, wanted.memory_bytes, 1,
            )  # fmt: skip
            self.standing.append(Standing(placement, wanted.resident))
        return answer

    def must(self, wanted: Want) -> Chosen:
        answer = self.add(wanted)
        assert isinstance(answer, Chosen), answer
        return answer


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


TENANTS = st.tuples(st.sampled_from("abcd"), st.integers(0, 100), st.integers(1, 4))


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


def gpu(name: str = "GPU-1", *kinds: PartitionKind) -> Device:
    return Device(name, DeviceKind.GPU, "H100", 80 * GIB, 132, (), kinds or (PartitionKind.WHOLE, PartitionKind.MPS))


def test_a_gpu_with_a_daemon_is_cut_by_mps_with_caps() -> None:
    fleet = Fleet(gpu())
    one, two = fleet.must(want("a")), fleet.must(want("b", share_percent=50))
    assert (one.partition.kind, one.partition.share_percent, one.partition.memory_bytes) == (
        PartitionKind.MPS, 25, 20 * GIB,
    )  # fmt: skip
    assert (two.partition.share_percent, two.partition.memory_bytes) == (50, 40 * GIB)
    refused = fleet.add(want("c", share_percent=30))
    assert isinstance(refused, NoPlace)
    assert "30 % of the SMs are asked for and 25 % are free" in refused.reason


def test_a_gpu_without_a_daemon_is_given_whole() -> None:
    assert Fleet(gpu("GPU-1", PartitionKind.WHOLE)).must(want("a")).partition.kind is PartitionKind.WHOLE


def test_who_shares_with_nobody_gets_the_gpu_whole() -> None:
    fleet = Fleet(gpu())
    assert fleet.must(want("a", TrustPolicy.EXCLUSIVE)).partition.kind is PartitionKind.WHOLE
    assert isinstance(fleet.add(want("b")), NoPlace)


def test_a_second_model_goes_into_its_tenants_share_while_the_cap_holds_it() -> None:
    fleet = Fleet(gpu())
    one = fleet.must(want("a"))
    assert fleet.must(want("a", memory_bytes=10 * GIB)).partition == one.partition
    assert fleet.must(want("a", memory_bytes=12 * GIB)).partition != one.partition


@examples(60)
@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 60), st.integers(1, 30)), max_size=14))
def test_shares_and_caps_of_a_gpu_are_never_overcommitted(wants: list[tuple[str, int, int]]) -> None:
    fleet = Fleet(gpu())
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
