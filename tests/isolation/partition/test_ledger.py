"""What may stand together: tables for the words, a property for the sums."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isolation.partition.ledger import RESTING_BYTES, account, objection, resting
from partywall.domain.fleet import Device, DeviceKind, Partition, PartitionKind

GPU = Device("g", DeviceKind.GPU, "H100", 100, 132)
CPU = Device("cpu", DeviceKind.CPU, "CPU", 100, 4, (0, 1, 2, 3))


def mps(name: str, share: int, memory: int = 0) -> Partition:
    return Partition(name, PartitionKind.MPS, "g", (), share, memory)


def cpuset(name: str, cores: tuple[int, ...], memory: int = 0) -> Partition:
    return Partition(name, PartitionKind.CPUSET, "cpu", cores, 100, memory)


WHOLE = Partition("w", PartitionKind.WHOLE, "g")
MIG = Partition("mig-9-4", PartitionKind.MIG, "g")


@pytest.mark.parametrize(
    ("device", "standing", "new", "words"),
    [
        (GPU, [], mps("a", 101), "101 %"),
        (GPU, [mps("a", 60)], mps("b", 41), "101 %"),
        (GPU, [mps("a", 60)], mps("b", 40), None),
        (GPU, [mps("a", 10, 60)], mps("b", 10, 41), "101 of 100 bytes"),
        (GPU, [WHOLE], mps("a", 1), "takes the device whole"),
        (GPU, [mps("a", 1)], WHOLE, "takes the device whole"),
        (GPU, [mps("a", 1)], MIG, "mig and mps partitions"),
        (GPU, [MIG], Partition("x/mig-9-4", PartitionKind.MIG, "g"), "slot is taken"),
        (GPU, [MIG], Partition("mig-9-0", PartitionKind.MIG, "g"), None),
        (GPU, [], cpuset("a", (0,)), "cannot be shared by cpuset"),
        (CPU, [], mps("a", 1), "cannot be shared by mps"),
        (CPU, [cpuset("a", (0, 1))], cpuset("b", (1, 2)), "cores [1] are taken"),
        (CPU, [cpuset("a", (0, 1))], cpuset("b", (2,)), None),
        (CPU, [cpuset("a", (0,), 70)], cpuset("b", (1,), 31), "101 of 100 bytes"),
    ],
)
def test_objections(device: Device, standing: list[Partition], new: Partition, words: str | None) -> None:
    found = objection(device, standing, new, time_shared=False)
    assert (found is None) if words is None else (found is not None and words in found)


def test_cores_may_be_time_shared_when_the_operator_says_so() -> None:
    assert objection(CPU, [cpuset("a", (0, 1))], cpuset("b", (0, 1)), time_shared=True) is None


def test_a_resting_partition_takes_no_share_and_little_memory_but_keeps_its_slot() -> None:
    capped = mps("a", 60, 8 * RESTING_BYTES)
    assert (resting(capped).share_percent, resting(capped).memory_bytes) == (0, RESTING_BYTES)
    assert resting(mps("a", 60, 5)).memory_bytes == 5
    assert resting(mps("a", 60)).memory_bytes == RESTING_BYTES
    large = Device("g", DeviceKind.GPU, "H100", 10 * RESTING_BYTES, 132)
    assert objection(large, [capped], mps("b", 60), time_shared=True) is not None
    assert objection(large, [resting(capped)], mps("b", 60, 9 * RESTING_BYTES), time_shared=True) is None
    assert "memory caps" in str(objection(large, [resting(capped)], mps("b", 60, 10 * RESTING_BYTES), time_shared=True))
    assert objection(GPU, [resting(MIG)], Partition("x/mig-9-4", PartitionKind.MIG, "g"), time_shared=True) is not None


candidates = st.one_of(
    st.builds(mps, st.uuids().map(str), st.integers(1, 100), st.integers(0, 60)),
    st.just(WHOLE),
    st.sampled_from([Partition(f"mig-19-{n}", PartitionKind.MIG, "g") for n in range(7)]),
)


@given(st.lists(candidates, max_size=20))
def test_what_is_let_in_never_exceeds_the_device(wanted: list[Partition]) -> None:
    standing: list[Partition] = []
    for new in wanted:
        if objection(GPU, standing, new, time_shared=False) is None:
            standing.append(new)
    sums = account(standing)
    assert sums.share_percent <= 100
    assert sums.memory_bytes <= GPU.memory_bytes
    assert len({p.kind for p in standing}) <= 1
    assert len(standing) == 1 or WHOLE not in standing


@given(st.lists(st.builds(cpuset, st.uuids().map(str), st.sets(st.integers(0, 3), min_size=1).map(tuple)), max_size=9))
def test_cores_are_given_out_once(wanted: list[Partition]) -> None:
    standing: list[Partition] = []
    for new in wanted:
        if objection(CPU, standing, new, time_shared=False) is None:
            standing.append(new)
    assert sum(len(p.cores) for p in standing) == len(account(standing).cores)
