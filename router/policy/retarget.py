"""Another size or another place for a partition that stands: what it would be, and what speaks against it. Pure.

The new partition stands beside the old one until it serves, so memory must be there for both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from partywall.domain.fleet import Device, DeviceKind, Partition, PartitionKind
from partywall.domain.placements import Alternative
from router.policy.candidates import Candidate, core_count, free_cores, judge, mig_partition, mps_partition
from router.policy.placement import mib
from router.policy.wants import Chosen, NodeView, NoPlace, Operator, Standing, Want


@dataclass(frozen=True, slots=True)
class Change:
    """What is asked. Zero and empty: as it is.

    Attributes:
        share_percent: Share of the device, 1 to 100.
        cores: Number of cores, for a CPU; goes before the share.
        node: Where to.
        device_id: Which device there; empty: the best of the same kind.
    """

    share_percent: int = 0
    cores: int = 0
    node: str = ""
    device_id: str = ""


@dataclass(frozen=True, slots=True)
class Member:
    """A placement of the partition, and what its replica needs."""

    standing: Standing
    want: Want


@dataclass(frozen=True, slots=True)
class Target:
    """The partition that would take over, with a cleared place for each member, in the members' order.

    Memory in bytes: what the members need while both stand, and what the device has left for it.
    """

    node: str
    partition: Partition
    chosen: tuple[Chosen, ...]
    reason: str
    needed_bytes: int
    free_bytes: int
    alternatives: tuple[Alternative, ...] = ()


def retarget(
    change: Change,
    partition: Partition,
    node: str,
    members: Sequence[Member],
    nodes: Sequence[NodeView],
    standing: Sequence[Standing],
    operator: Operator,
    new_id: Callable[[str], str],
) -> Target | NoPlace:
    """Finds the partition that takes over from `partition` on `node`."""
    where = change.node or node
    view = next((n for n in nodes if n.name == where), None)
    if view is None:
        return NoPlace(f"node {where!r} is not connected; `partywall fleet show` lists the nodes", False, ())
    devices = _devices(change, partition, node, view, nodes)
    if not devices:
        wanted = f"device {change.device_id!r}" if change.device_id else f"a device for {partition.kind.value}"
        return NoPlace(f"node {where!r} has no {wanted}; it has {', '.join(d.id for d in view.devices)}", False, ())
    looked_at: list[Alternative] = []
    best: Target | None = None
    for device in devices:
        answer = _on(change, partition, members, view.name, device, standing, operator, new_id)
        if isinstance(answer, Alternative):
            looked_at.append(answer)
        elif best is None or _finish_s(answer) < _finish_s(best):
            best = answer
    if best is None:
        reasons = "; ".join(dict.fromkeys(a.reason for a in looked_at))
        return NoPlace(reasons, False, tuple(looked_at))
    taken = Alternative(f"{best.node}/{best.partition.device_id}", True, best.reason, _finish_s(best) * 1e3)
    return Target(
        best.node,
        best.partition,
        best.chosen,
        best.reason,
        best.needed_bytes,
        best.free_bytes,
        (taken, *looked_at),
    )


def _devices(
    change: Change, partition: Partition, node: str, view: NodeView, nodes: Sequence[NodeView]
) -> list[Device]:
    if change.device_id:
        return [d for d in view.devices if d.id == change.device_id]
    if view.name == node:
        return [d for d in view.devices if d.id == partition.device_id]
    old = next((d for n in nodes if n.name == node for d in n.devices if d.id == partition.device_id), None)
    # Of a node that is away only the kind of partition is known.
    on_cpu = old.kind is DeviceKind.CPU if old else partition.kind is PartitionKind.CPUSET
    return [d for d in view.devices if (d.kind is DeviceKind.CPU) == on_cpu]


def _on(
    change: Change,
    partition: Partition,
    members: Sequence[Member],
    node: str,
    device: Device,
    standing: Sequence[Standing],
    operator: Operator,
    new_id: Callable[[str], str],
) -> Target | Alternative:
    where = f"{node}/{device.id}"
    if device.fenced:
        return Alternative(where, False, f"{where} is fenced: {device.fenced}")
    here = [s for s in standing if s.placement.node == node and s.placement.partition.device_id == device.id]
    needed = sum(m.want.memory_bytes for m in members)
    free = device.memory_bytes - sum(s.placement.memory_bytes for s in here)
    if needed > free:
        reason = f"needs {mib(needed)} while the old replicas still stand, {mib(max(0, free))} free on {where}"
        return Alternative(where, False, reason)
    leaving = {m.standing.placement.id for m in members}
    here = [s for s in here if s.placement.id not in leaving]
    staying = [s for s in standing if s.placement.id not in leaving]
    fresh = _partition(change, partition, device, here, needed, operator, new_id)
    if isinstance(fresh, str):
        return Alternative(where, False, fresh)
    made, note = fresh
    workers: dict[str, str] = {}
    chosen: list[Chosen] = []
    for member in members:
        worker_id = workers.setdefault(member.standing.placement.worker_id, "") or new_id("worker")
        workers[member.standing.placement.worker_id] = worker_id
        verdict = judge(member.want, Candidate(node, device, made, worker_id, note), staying, here, operator)
        if isinstance(verdict, Alternative):
            return Alternative(where, False, verdict.reason)
        chosen.append(verdict)
    return Target(node, made, tuple(chosen), note, needed, free)


def _partition(
    change: Change,
    old: Partition,
    device: Device,
    here: Sequence[Standing],
    needed: int,
    operator: Operator,
    new_id: Callable[[str], str],
) -> tuple[Partition, str] | str:
    """The new partition with a note, or why there is none."""
    if change.cores > device.compute_units:
        return f"{change.cores} cores are asked for and {device.id} has {device.compute_units}"
    sized = bool(change.share_percent or change.cores)
    if device.kind is DeviceKind.CPU:
        if old.kind is PartitionKind.WHOLE and not sized:
            whole = Partition(new_id("part"), PartitionKind.WHOLE, device.id, (), 100, old.memory_bytes)
            return whole, "the whole device"
        same = len(old.cores) if old.cores else core_count(device, old.share_percent)
        count = change.cores or (core_count(device, change.share_percent) if change.share_percent else same)
        count = min(count, device.compute_units)
        keep = old.cores if device.id == old.device_id else ()
        cores, note = free_cores(device, count, here, operator, keep)
        if not cores:
            return note
        percent = max(1, round(100 * len(cores) / device.compute_units))
        return Partition(new_id("part"), PartitionKind.CPUSET, device.id, cores, percent, old.memory_bytes), note
    if change.cores:
        return f"{device.id} is a GPU: give a share in percent, not cores"
    if device.kinds == (PartitionKind.MIG,):
        share = change.share_percent or (old.share_percent if old.kind is PartitionKind.MPS else 0)
        found, note = mig_partition(device, share, needed, here, new_id)
        return (found, note) if found is not None else note
    if old.kind is PartitionKind.WHOLE and not sized:
        return Partition(new_id("part"), PartitionKind.WHOLE, device.id, (), 100, old.memory_bytes), "the whole device"
    if PartitionKind.MPS not in device.kinds:
        return f"the agent of {device.id} makes no shares of it (no MPS daemon there)"
    if any(s.placement.partition.kind is PartitionKind.WHOLE for s in here):
        return f"somebody else has {device.id} whole"
    made, note = mps_partition(device, change.share_percent or old.share_percent, needed, 0, here, new_id)
    return (made, note) if made is not None else note


def _finish_s(target: Target) -> float:
    return max((c.predicted_finish_s for c in target.chosen), default=0.0)
