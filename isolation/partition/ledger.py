"""What may stand together on one device: pure accounting, no I/O.

whole     alone
mps       shares add up to at most 100 %, memory caps to at most the device's memory; not beside MIG instances
mig       each slot once (the geometry itself is the driver's to judge); not beside MPS shares
cpuset    each core once unless cores may be time-shared; memory caps to at most the device's memory
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from isolation.partition.mig import slot_of
from partywall.domain.fleet import Device, DeviceKind, Partition, PartitionKind

_KINDS = {
    DeviceKind.CPU: {PartitionKind.WHOLE, PartitionKind.CPUSET},
    DeviceKind.GPU: {PartitionKind.WHOLE, PartitionKind.MPS, PartitionKind.MIG},
}


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


def objection(device: Device, standing: Sequence[Partition], new: Partition, share_cores: bool) -> str | None:
    """Why `new` may not join `standing`; None: it may.

    Args:
        device: Where.
        standing: Partitions of that device, without `new`.
        new: The candidate.
        share_cores: Whether a core may be in several cpusets.
    """
    if new.kind not in _KINDS[device.kind]:
        return f"a {device.kind} cannot be shared by {new.kind}"
    if not standing:
        return _exceeds(device, [new])
    if lone := next((p for p in [*standing, new] if p.kind is PartitionKind.WHOLE), None):
        return f"partition {lone.id} takes the device whole"
    kinds = {p.kind for p in [*standing, new]}
    if len(kinds) > 1:
        return f"{' and '.join(sorted(kinds))} partitions cannot stand on one device"
    if new.kind is PartitionKind.MIG and slot_of(new) in {slot_of(p) for p in standing}:
        return "its slot is taken"
    if new.kind is PartitionKind.CPUSET and not share_cores:
        taken = sorted(account(standing).cores & set(new.cores))
        if taken:
            return f"cores {taken} are taken"
    return _exceeds(device, [*standing, new])


def _exceeds(device: Device, partitions: Sequence[Partition]) -> str | None:
    sums = account(partitions)
    if sums.share_percent > 100:
        return f"shares would add up to {sums.share_percent} %"
    if sums.memory_bytes > device.memory_bytes:
        return f"memory caps would add up to {sums.memory_bytes} of {device.memory_bytes} bytes"
    return None
