"""What may stand together on one device: pure accounting, no I/O.

whole     alone, unless the device may be shared in time
mps       shares add up to at most 100 %, memory caps to at most the device's memory; not beside MIG instances
mig       each slot once (the geometry itself is the driver's to judge); not beside MPS shares
cpuset    each core once, and memory caps to at most the device's memory, unless it may be shared in time

A partition *rests* while all weights in it are parked in host memory: its processes hold their contexts and compute
nothing, so it takes no share and little memory; its slot it keeps.

Shared in time, a CPU's caps are ceilings and no reservations: whoever places replicas keeps the account of memory.
A partition that takes over from another may overlap with it until it has.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from isolation.partition.mig import slot_of
from partywall.domain.fleet import Device, DeviceKind, Partition, PartitionKind

_KINDS = {
    DeviceKind.CPU: {PartitionKind.WHOLE, PartitionKind.CPUSET},
    DeviceKind.GPU: {PartitionKind.WHOLE, PartitionKind.MPS, PartitionKind.MIG},
}


RESTING_BYTES = 512 << 20
"""Device memory reckoned for the context of a process whose weights are parked, and for what libraries keep beside it;
`benchmarks/gpu_checks.py` shows what it is on a GPU."""


def resting(partition: Partition) -> Partition:
    """What a partition takes of its device while it rests."""
    held = min(partition.memory_bytes or RESTING_BYTES, RESTING_BYTES)
    return replace(partition, share_percent=0, memory_bytes=held)


@dataclass(frozen=True, slots=True)
class Account:
    """What is given out of a device."""

    share_percent: int
    memory_bytes: int
    cores: frozenset[int]


def account(partitions: Collection[Partition]) -> Account:
    """The sums over partitions of one device."""
    return Account(
        share_percent=sum(p.share_percent for p in partitions if p.kind is PartitionKind.MPS),
        memory_bytes=sum(p.memory_bytes for p in partitions),
        cores=frozenset(core for p in partitions for core in p.cores),
    )


def objection(
    device: Device,
    standing: Sequence[Partition],
    new: Partition,
    time_shared: bool,
    leaving: Collection[str] = (),
) -> str | None:
    """Why `new` may not join `standing`; None: it may.

    Args:
        device: Where.
        standing: Partitions of that device, without `new`.
        new: The candidate.
        time_shared: Whether a core may be in several cpusets, and a whole device be given out twice.
        leaving: Ids of partitions that `new` takes over from.
    """
    standing = [p for p in standing if p.id not in leaving]
    if new.kind not in _KINDS[device.kind]:
        return f"a {device.kind} cannot be shared by {new.kind}"
    if not standing:
        return _exceeds(device, [new])
    lone = next((p for p in [*standing, new] if p.kind is PartitionKind.WHOLE), None)
    if lone is not None and not time_shared:
        return f"partition {lone.id} takes the device whole"
    kinds = {p.kind for p in [*standing, new]} - {PartitionKind.WHOLE}
    if lone is not None and PartitionKind.MIG in kinds:
        return f"partition {lone.id} takes the device whole, and there are MIG instances"
    if len(kinds) > 1:
        return f"{' and '.join(sorted(kinds))} partitions cannot stand on one device"
    if new.kind is PartitionKind.MIG and slot_of(new) in {slot_of(p) for p in standing}:
        return "its slot is taken"
    if new.kind is PartitionKind.CPUSET and not time_shared:
        taken = sorted(account(standing).cores & set(new.cores))
        if taken:
            return f"cores {taken} are taken"
    if device.kind is DeviceKind.CPU and time_shared:
        return None
    return _exceeds(device, [*standing, new])


def _exceeds(device: Device, partitions: Sequence[Partition]) -> str | None:
    sums = account(partitions)
    if sums.share_percent > 100:
        return f"shares would add up to {sums.share_percent} %"
    if sums.memory_bytes > device.memory_bytes:
        return f"memory caps would add up to {sums.memory_bytes} of {device.memory_bytes} bytes"
    return None
