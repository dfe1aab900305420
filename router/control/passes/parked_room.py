"""What parked weights hold, and whether there is room for them: on their device when they wake, and until then.

On a GPU a parked placement holds host memory, and of the device only what its process cannot give back. Waking it takes
its memory, and its partition's share, anew: others may have them by now.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from isolation.partition.ledger import RESTING_BYTES, objection, resting
from partywall.domain.fleet import Device, DeviceKind, Partition, PartitionKind
from partywall.domain.placements import Placement
from router.control.scene import Scene
from router.policy.placement import Standing, by_device


def held_bytes(scene: Scene, placement: Placement) -> int:
    """Host memory that parked weights hold: as the agent says, or else as the placement was reckoned."""
    device = scene.device(placement)
    runtime = scene.membership.replicas_by_id.get(placement.id)
    status = runtime.status if runtime is not None else None
    if device is None or device.kind is not DeviceKind.GPU or status is None or not status.memory_bytes:
        return placement.memory_bytes
    return status.memory_bytes


def no_room_to_wake(scene: Scene, placement: Placement) -> str:
    """Why a parked placement cannot come back where it is now; empty: it can. On a CPU it always can: it never left."""
    device = scene.device(placement)
    if device is None or device.kind is not DeviceKind.GPU:
        return ""
    if device.fenced:
        return f"its device is fenced ({device.fenced})"
    here = by_device(scene.standings()).get((placement.node, device.id), [])
    others = [s for s in here if s.placement.id != placement.id]
    free = device.memory_bytes - sum(s.placement.memory_bytes for s in others)
    if placement.memory_bytes > free:
        return f"it needs {_mib(placement.memory_bytes)} of its device, and others left {_mib(max(0, free))}"
    partition, partitions = placement.partition, _partitions(others)
    if partition.id not in partitions:
        found = objection(device, list(partitions.values()), partition, time_shared=True)
        return f"its share was given to others: {found}" if found is not None else ""
    inside = sum(s.placement.memory_bytes for s in others if s.placement.partition.id == partition.id)
    capped = partition.kind in (PartitionKind.MPS, PartitionKind.MIG)
    if capped and inside + placement.memory_bytes > partition.memory_bytes:
        return f"its partition has {_mib(max(0, partition.memory_bytes - inside))} left"
    return ""


def crowded_out(
    scene: Scene, device: Device, others: Sequence[Standing], parked: Iterable[Placement]
) -> list[Placement]:
    """Of the parked placements on one GPU those whose processes leave others short of it; the newest stay.

    Args:
        scene: The fleet.
        device: The GPU.
        others: What stands on it, weights that are still on their way off it too.
        parked: What is parked on it.
    """
    partitions = _partitions(others)
    free = device.memory_bytes - sum(s.placement.memory_bytes for s in others)
    out: list[Placement] = []
    for one in sorted(parked, key=lambda p: p.generation, reverse=True):
        if not scene.off_device(one):
            continue  # counted among the others until it has given its memory back
        alone = one.partition.id not in partitions
        rests = resting(one.partition)
        fits = free >= RESTING_BYTES
        if fits and alone:
            fits = objection(device, list(partitions.values()), rests, time_shared=True) is None
        if not fits:
            out.append(one)
            continue
        free -= RESTING_BYTES
        if alone:
            partitions[rests.id] = rests
    return out


def _partitions(standing: Sequence[Standing]) -> dict[str, Partition]:
    return {s.placement.partition.id: s.placement.partition for s in standing}


def _mib(size: int) -> str:
    return f"{size / (1 << 20):,.0f} MiB"
