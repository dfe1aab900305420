"""Where a replica could go on one device, and what speaks for and against it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

from isolation.devices.geometry import Slot
from isolation.partition.mig import mig_partition_id, slot_of
from isolation.trust import Clearance, Refusal, Resident, Wall, clear_all, wall_between
from partywall.domain.fleet import Device, DeviceKind, Partition, PartitionKind
from partywall.domain.placements import Alternative, Placement
from partywall.domain.tenants import TrustPolicy
from router.policy.wants import Chosen, NodeView, Operator, Standing, Want

STREAM_BYTES_PER_S = {DeviceKind.CPU: 5e9, DeviceKind.GPU: 1e12}
"""Roofline of a forward pass while nothing is measured: the weights are read once (one core; one GPU)."""
FLOOR_SERVICE_S = 0.001
DEFAULT_SHARE_PERCENT = 25


@dataclass(frozen=True, slots=True)
class Candidate:
    """A partition and worker that a replica could have."""

    node: str
    device: Device
    partition: Partition
    worker_id: str
    note: str


def candidates(
    want: Want,
    node: NodeView,
    device: Device,
    here: Sequence[Standing],
    operator: Operator,
    new_id: Callable[[str], str],
) -> Iterable[Candidate | str]:
    """The partitions and workers a replica could have on a device, or why there is none."""
    if want.apart:
        alone = _own_ground(want, device, here, new_id)
        if alone is not None:
            yield Candidate(node.name, device, alone, new_id("worker"), "ground of its own for one more replica")
        return
    mine = [s for s in here if s.resident.tenant_id == want.resident.tenant_id]
    if want.resident.policy is TrustPolicy.SHARED:
        workers = {s.placement.worker_id: s.placement for s in here if s.resident.policy is TrustPolicy.SHARED}
        for worker_id, placement in workers.items():
            yield Candidate(node.name, device, placement.partition, worker_id, "joins a worker of its trust group")
        if workers:
            return
    elif mine and not want.share_percent and _has_room(want, mine[0].placement.partition, here):
        partition = mine[0].placement.partition
        yield Candidate(node.name, device, partition, new_id("worker"), "beside this tenant's other models")
        return
    fresh, note = _new_partition(want, device, here, operator, new_id)
    if fresh is not None:
        yield Candidate(node.name, device, fresh, new_id("worker"), note)
    elif note:
        yield note


def _new_partition(
    want: Want, device: Device, here: Sequence[Standing], operator: Operator, new_id: Callable[[str], str]
) -> tuple[Partition | None, str]:
    cap = want.memory_quota_bytes or 0
    whole = want.resident.policy in (TrustPolicy.SHARED, TrustPolicy.EXCLUSIVE) and not want.share_percent
    if device.kind is DeviceKind.GPU and _by_mps(want, device, here):
        share = want.share_percent or DEFAULT_SHARE_PERCENT
        return mps_partition(device, share, want.memory_bytes, cap, here, new_id)
    if device.kinds == (PartitionKind.MIG,):
        return mig_partition(device, want.share_percent, want.memory_bytes, here, new_id)
    if device.kind is DeviceKind.GPU or whole:
        return Partition(new_id("part"), PartitionKind.WHOLE, device.id, (), 100, cap), "the whole device"
    cores, note = free_cores(device, core_count(device, want.share_percent), here, operator)
    if not cores:
        return None, note
    percent = max(1, round(100 * len(cores) / device.compute_units))
    return Partition(new_id("part"), PartitionKind.CPUSET, device.id, cores, percent, cap), note


def _own_ground(want: Want, device: Device, here: Sequence[Standing], new_id: Callable[[str], str]) -> Partition | None:
    """A partition of units that nobody has. On a CPU another one of that size stays free: for the next tenant."""
    if any(s.placement.model_id == want.model_id and s.placement.version == want.version for s in here):
        return None
    cap = want.memory_quota_bytes or 0
    if device.kinds == (PartitionKind.MIG,):
        return mig_partition(device, want.share_percent, want.memory_bytes, here, new_id)[0]
    if device.kind is DeviceKind.GPU and _by_mps(want, device, here):
        share = want.share_percent or DEFAULT_SHARE_PERCENT
        return mps_partition(device, share, want.memory_bytes, cap, here, new_id)[0]
    if device.kind is DeviceKind.GPU or want.resident.policy is TrustPolicy.EXCLUSIVE:
        return None if here else Partition(new_id("part"), PartitionKind.WHOLE, device.id, (), 100, cap)
    taken = {core for s in here for core in s.placement.partition.cores or device.cores}
    free = [core for core in sorted(device.cores) if core not in taken]
    count = core_count(device, want.share_percent)
    if len(free) < 2 * count:
        return None
    percent = max(1, round(100 * count / device.compute_units))
    return Partition(new_id("part"), PartitionKind.CPUSET, device.id, tuple(free[:count]), percent, cap)


def mps_partition(
    device: Device,
    share: int,
    needed_bytes: int,
    quota_bytes: int,
    here: Sequence[Standing],
    new_id: Callable[[str], str],
) -> tuple[Partition | None, str]:
    """A share of a GPU behind its MPS daemon, with a memory cap in proportion unless a quota says otherwise."""
    others = {s.placement.partition for s in here}
    left = 100 - sum(p.share_percent for p in others if p.kind is PartitionKind.MPS)
    if share > left:
        return None, f"{share} % of the SMs are asked for and {max(0, left)} % are free"
    free = device.memory_bytes - sum(p.memory_bytes for p in others)
    cap = min(quota_bytes or max(needed_bytes, device.memory_bytes * share // 100), free)
    if cap < needed_bytes:
        return None, "its memory is given out in caps to other partitions"
    partition = Partition(new_id("part"), PartitionKind.MPS, device.id, (), share, cap)
    return partition, f"{share} % of the SMs, {cap >> 20:,} MiB"


def mig_partition(
    device: Device, share: int, needed_bytes: int, here: Sequence[Standing], new_id: Callable[[str], str]
) -> tuple[Partition | None, str]:
    """The smallest free MIG instance that is large enough; it is used as it stands."""
    taken = {slot_of(s.placement.partition) for s in here if s.placement.partition.kind is PartitionKind.MIG}
    free = [one for one in device.instances if Slot(profile_id=one.profile_id, start=one.start) not in taken]
    enough = [
        one
        for one in free
        if one.memory_bytes >= needed_bytes and 100 * one.compute_units >= share * device.compute_units
    ]
    if not enough:
        return None, f"no free MIG instance is large enough ({len(free)} of {len(device.instances)} are free)"
    one = min(enough, key=lambda o: (o.compute_units, o.memory_bytes, o.start))
    percent = max(1, 100 * one.compute_units // device.compute_units)
    name = mig_partition_id(f"{new_id('part')}-", Slot(profile_id=one.profile_id, start=one.start))
    partition = Partition(name, PartitionKind.MIG, device.id, (), percent, one.memory_bytes)
    return partition, f"a MIG instance of {one.compute_units} SMs, {one.memory_bytes >> 20:,} MiB"


def _by_mps(want: Want, device: Device, here: Sequence[Standing]) -> bool:
    """Whether a GPU is cut by MPS: its agent can, the tenant may share, and nobody has it whole already."""
    if PartitionKind.MPS not in device.kinds or want.resident.policy in (TrustPolicy.EXCLUSIVE, TrustPolicy.HARDWARE):
        return False
    kinds = {s.placement.partition.kind for s in here}
    if PartitionKind.WHOLE in kinds:
        return False
    return want.resident.policy is not TrustPolicy.SHARED or bool(want.share_percent) or PartitionKind.MPS in kinds


def _has_room(want: Want, partition: Partition, here: Sequence[Standing]) -> bool:
    """Whether a partition's memory cap holds one more."""
    inside = sum(s.placement.memory_bytes for s in here if s.placement.partition.id == partition.id)
    capped = partition.kind in (PartitionKind.MPS, PartitionKind.MIG)
    return not capped or inside + want.memory_bytes <= partition.memory_bytes


def free_cores(
    device: Device, count: int, here: Sequence[Standing], operator: Operator, keep: Collection[int] = ()
) -> tuple[tuple[int, ...], str]:
    """The least crowded cores, those of `keep` first among equals, with a note; none when they may not be shared."""
    crowd = dict.fromkeys(device.cores, 0)
    for partition in {s.placement.partition for s in here}:
        for core in partition.cores or device.cores:
            crowd[core] = crowd.get(core, 0) + 1
    by_crowd = sorted(device.cores, key=lambda core: (crowd[core], core not in keep, core))[:count]
    taken = [core for core in by_crowd if crowd[core]]
    if taken and not operator.overcommit:
        return (), f"core(s) {_spell(taken)} are taken, and cores may not be shared in time (--no-overcommit)"
    note = f"{count} free core(s)" if not taken else f"core(s) {_spell(taken)} shared in time with another partition"
    return tuple(sorted(by_crowd)), note


def core_count(device: Device, share_percent: int) -> int:
    """Cores for a share; 0 percent asks for the default: a quarter of the device, at least one core."""
    percent = share_percent or DEFAULT_SHARE_PERCENT
    return min(device.compute_units, max(1, round(device.compute_units * percent / 100)))


def judge(
    want: Want, candidate: Candidate, standing: Sequence[Standing], here: Sequence[Standing], operator: Operator
) -> Chosen | Alternative:
    """The place with its predicted finish, or why trust refuses it.

    Args:
        want: The replica.
        candidate: The place.
        standing: Whom trust is asked about; who stands on other devices never refuses.
        here: Who stands on the device.
        operator: The operator's say.
    """
    at = (candidate.node, candidate.partition, candidate.worker_id)
    cleared = clear_place(want, *at, standing, operator.floor)
    where = place_name(candidate)
    if isinstance(cleared, Refusal):
        # The tenant reads this: the neighbour stays nameless.
        needed = cleared.needed.name.lower().replace("_", " ")
        return Alternative(where, False, f"trust: a resident there needs {needed}")
    finish_s = _predicted_finish_s(want, candidate, here)
    reason = f"{candidate.note}; predicted finish {finish_s * 1e3:.1f} ms"
    return Chosen(candidate.node, candidate.partition, candidate.worker_id, cleared, finish_s, reason, ())


def clear_place(
    want: Want, node: str, partition: Partition, worker_id: str, standing: Iterable[Standing], floor: TrustPolicy
) -> Clearance | Refusal:
    """Whether trust lets a replica stand there, beside all of `standing`."""
    probe = Placement(
        "", want.resident.tenant_id, want.model_id, want.version, node, partition, worker_id, want.memory_bytes, 0
    )
    walls: dict[Wall, list[Resident]] = {}
    for other in standing:
        walls.setdefault(wall_between(probe, other.placement), []).append(other.resident)
    return clear_all(want.resident, walls, floor)


def _predicted_finish_s(want: Want, candidate: Candidate, here: Sequence[Standing]) -> float:
    """Backlog of the worker plus the service time, stretched by everyone on the same compute units."""
    device, partition = candidate.device, candidate.partition
    mine = set(partition.cores or device.cores)
    units = len(mine) if device.kind is DeviceKind.CPU else partition.share_percent / 100
    service_s = want.service_s or max(FLOOR_SERVICE_S, want.weights_bytes / (STREAM_BYTES_PER_S[device.kind] * units))
    crowd, backlog_s = 0.0, 0.0
    for other in here:
        if other.placement.worker_id == candidate.worker_id:
            backlog_s = max(backlog_s, other.backlog_s)
        if partition.kind in (PartitionKind.MPS, PartitionKind.MIG) and other.placement.partition.id != partition.id:
            continue
        theirs = set(other.placement.partition.cores or device.cores)
        crowd += len(mine & theirs) / len(mine) if mine else 1.0
    return backlog_s + service_s * (1.0 + crowd)


def place_name(candidate: Candidate) -> str:
    """How alternatives name a place."""
    return f"{candidate.node}/{candidate.partition.kind.value}/{candidate.partition.id}"


def as_alternative(candidate: Candidate, chosen: Chosen) -> Alternative:
    return Alternative(place_name(candidate), False, candidate.note, chosen.predicted_finish_s * 1e3)


def _spell(cores: Iterable[int]) -> str:
    return ",".join(str(c) for c in sorted(cores))
