"""Where a replica goes: fits the memory, is cleared by the trust rule, has the least predicted finish time. Pure.

A tenant keeps to one partition of a device unless a version asks for a share of its own: its neighbours' cores are not
eaten up by its second model. Every candidate that was looked at is in the answer, with the reason for or against it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from isolation.trust import Clearance, Refusal, Resident, Wall, clear_all, wall_between
from partywall.domain.fleet import Device, DeviceKind, Partition, PartitionKind
from partywall.domain.placements import Alternative, Placement
from partywall.domain.tenants import TrustPolicy

STREAM_BYTES_PER_S = {DeviceKind.CPU: 5e9, DeviceKind.GPU: 1e12}
"""Roofline of a forward pass while nothing is measured: the weights are read once (one core; one GPU)."""
FLOOR_SERVICE_S = 0.001


@dataclass(frozen=True, slots=True)
class Want:
    """A replica that is to be placed. `memory_bytes` is its estimate, `service_s` a measured time or 0.0."""

    resident: Resident
    model_id: str
    version: int
    memory_bytes: int
    weights_bytes: int
    share_percent: int = 0
    service_s: float = 0.0
    memory_quota_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Standing:
    """A placement that exists, with its owner and the work that waits for its worker."""

    placement: Placement
    resident: Resident
    backlog_s: float = 0.0


@dataclass(frozen=True, slots=True)
class NodeView:
    """A live node."""

    name: str
    devices: tuple[Device, ...]


@dataclass(frozen=True, slots=True)
class Chosen:
    """A place, with the trust rule's clearance for it."""

    node: str
    partition: Partition
    worker_id: str
    clearance: Clearance
    predicted_finish_s: float
    reason: str
    alternatives: tuple[Alternative, ...]


@dataclass(frozen=True, slots=True)
class NoPlace:
    """Nowhere now; `permanent` when no device of the fleet could ever hold it."""

    reason: str
    permanent: bool
    alternatives: tuple[Alternative, ...]


@dataclass(frozen=True, slots=True)
class Operator:
    """The operator's say: the weakest trust policy allowed, and whether cores may be time-shared."""

    floor: TrustPolicy = TrustPolicy.SHARED
    overcommit: bool = True


@dataclass(frozen=True, slots=True)
class _Candidate:
    node: str
    device: Device
    partition: Partition
    worker_id: str
    note: str


def place(
    want: Want,
    nodes: Sequence[NodeView],
    standing: Sequence[Standing],
    operator: Operator,
    new_id: Callable[[str], str],
) -> Chosen | NoPlace:
    """Decides for one replica. `new_id(prefix)` names new partitions and workers."""
    devices = [(node, device) for node in nodes for device in node.devices]
    if not devices:
        return NoPlace("no node is online; start an agent (partywall agent, or partywall up)", False, ())
    if want.memory_bytes > max(device.memory_bytes for _, device in devices):
        largest = max(device.memory_bytes for _, device in devices)
        return NoPlace(
            f"needs {_mib(want.memory_bytes)} and the largest device has {_mib(largest)}: too large for every device",
            True,
            (),
        )
    over = _over_quota(want, standing)
    if over:
        return NoPlace(over, False, ())
    looked_at: list[Alternative] = []
    best: Chosen | None = None
    for node, device in devices:
        here = [s for s in standing if s.placement.node == node.name and s.placement.partition.device_id == device.id]
        free = device.memory_bytes - sum(s.placement.memory_bytes for s in here)
        if want.memory_bytes > free:
            reason = f"needs {_mib(want.memory_bytes)}, {_mib(max(0, free))} free"
            looked_at.append(Alternative(f"{node.name}/{device.id}", False, reason))
            continue
        for candidate in _candidates(want, node, device, here, operator, new_id):
            verdict = _judge(want, candidate, standing, here, operator)
            if isinstance(verdict, Alternative):
                looked_at.append(verdict)
            else:
                looked_at.append(_as_alternative(candidate, verdict))
                if best is None or verdict.predicted_finish_s < best.predicted_finish_s:
                    best = verdict
    if best is None:
        return NoPlace(_summary(looked_at), False, tuple(looked_at))
    marked = tuple(_mark(a, best) for a in looked_at)
    return Chosen(
        best.node, best.partition, best.worker_id, best.clearance, best.predicted_finish_s, best.reason, marked
    )


def to_move(standing: Sequence[Standing], floor: TrustPolicy) -> list[Placement]:
    """Placements that may no longer stand where they are, after a policy, a group or the floor changed.

    Of a pair that the rule refuses, the one with the stricter policy goes (its owner asked for it), else the younger.
    """
    left = list(standing)
    gone: list[Placement] = []
    for one in sorted(standing, key=_strictness):
        others = [s for s in left if s is not one]
        walls: dict[Wall, list[Resident]] = {}
        for other in others:
            walls.setdefault(wall_between(one.placement, other.placement), []).append(other.resident)
        if isinstance(clear_all(one.resident, walls, floor), Refusal):
            left.remove(one)
            gone.append(one.placement)
    return gone


def _strictness(standing: Standing) -> tuple[int, int]:
    return list(TrustPolicy).index(standing.resident.policy), -standing.placement.generation


def _candidates(
    want: Want,
    node: NodeView,
    device: Device,
    here: Sequence[Standing],
    operator: Operator,
    new_id: Callable[[str], str],
) -> Iterable[_Candidate]:
    mine = [s for s in here if s.resident.tenant_id == want.resident.tenant_id]
    if want.resident.policy is TrustPolicy.SHARED:
        workers = {s.placement.worker_id: s.placement for s in here if s.resident.policy is TrustPolicy.SHARED}
        for worker_id, placement in workers.items():
            yield _Candidate(node.name, device, placement.partition, worker_id, "joins a worker of its trust group")
        if workers:
            return
    elif mine and not want.share_percent:
        partition = mine[0].placement.partition
        yield _Candidate(node.name, device, partition, new_id("worker"), "beside this tenant's other models")
        return
    fresh, note = _new_partition(want, device, here, operator, new_id)
    if fresh is not None:
        yield _Candidate(node.name, device, fresh, new_id("worker"), note)


def _new_partition(
    want: Want, device: Device, here: Sequence[Standing], operator: Operator, new_id: Callable[[str], str]
) -> tuple[Partition | None, str]:
    cap = want.memory_quota_bytes or 0
    whole = want.resident.policy in (TrustPolicy.SHARED, TrustPolicy.EXCLUSIVE) and not want.share_percent
    if device.kind is DeviceKind.GPU or whole:
        return Partition(new_id("part"), PartitionKind.WHOLE, device.id, (), 100, cap), "the whole device"
    count = core_count(device, want.share_percent)
    crowd = dict.fromkeys(device.cores, 0)
    for partition in {s.placement.partition for s in here}:
        for core in partition.cores or device.cores:
            crowd[core] = crowd.get(core, 0) + 1
    by_crowd = sorted(device.cores, key=lambda core: (crowd[core], core))[:count]
    taken = [core for core in by_crowd if crowd[core]]
    if taken and not operator.overcommit:
        return None, ""
    percent = max(1, round(100 * count / device.compute_units))
    note = f"{count} free core(s)" if not taken else f"core(s) {_spell(taken)} shared in time with another partition"
    return Partition(new_id("part"), PartitionKind.CPUSET, device.id, tuple(sorted(by_crowd)), percent, cap), note


def core_count(device: Device, share_percent: int) -> int:
    """Cores for a share; 0 percent asks for the default: a quarter of the device, at least one core."""
    percent = share_percent or 25
    return min(device.compute_units, max(1, round(device.compute_units * percent / 100)))


def _judge(
    want: Want, candidate: _Candidate, standing: Sequence[Standing], here: Sequence[Standing], operator: Operator
) -> Chosen | Alternative:
    probe = Placement(
        "", want.resident.tenant_id, want.model_id, want.version, candidate.node, candidate.partition,
        candidate.worker_id, want.memory_bytes, 0,
    )  # fmt: skip
    walls: dict[Wall, list[Resident]] = {}
    for other in standing:
        walls.setdefault(wall_between(probe, other.placement), []).append(other.resident)
    cleared = clear_all(want.resident, walls, operator.floor)
    where = f"{candidate.node}/{candidate.partition.kind.value}/{candidate.partition.id}"
    if isinstance(cleared, Refusal):
        # The tenant reads this: the neighbour stays nameless.
        needed = cleared.needed.name.lower().replace("_", " ")
        return Alternative(where, False, f"trust: a resident there needs {needed}")
    finish_s = _predicted_finish_s(want, candidate, here)
    reason = f"{candidate.note}; predicted finish {finish_s * 1e3:.1f} ms"
    return Chosen(candidate.node, candidate.partition, candidate.worker_id, cleared, finish_s, reason, ())


def _predicted_finish_s(want: Want, candidate: _Candidate, here: Sequence[Standing]) -> float:
    """Backlog of the worker plus the service time, stretched by everyone on the same compute units."""
    device, partition = candidate.device, candidate.partition
    mine = set(partition.cores or device.cores)
    units = len(mine) if device.kind is DeviceKind.CPU else 1
    service_s = want.service_s or max(FLOOR_SERVICE_S, want.weights_bytes / (STREAM_BYTES_PER_S[device.kind] * units))
    crowd, backlog_s = 0.0, 0.0
    for other in here:
        if other.placement.worker_id == candidate.worker_id:
            backlog_s = max(backlog_s, other.backlog_s)
        theirs = set(other.placement.partition.cores or device.cores)
        crowd += len(mine & theirs) / len(mine) if mine else 1.0
    return backlog_s + service_s * (1.0 + crowd)


def _over_quota(want: Want, standing: Sequence[Standing]) -> str:
    if want.memory_quota_bytes is None:
        return ""
    used = sum(s.placement.memory_bytes for s in standing if s.resident.tenant_id == want.resident.tenant_id)
    if used + want.memory_bytes <= want.memory_quota_bytes:
        return ""
    return (
        f"needs {_mib(want.memory_bytes)} beside {_mib(used)} in use, and the quota is "
        f"{_mib(want.memory_quota_bytes)} of device memory; release a model or ask for more (quota set --device-memory)"
    )


def _as_alternative(candidate: _Candidate, chosen: Chosen) -> Alternative:
    where = f"{candidate.node}/{candidate.partition.kind.value}/{candidate.partition.id}"
    return Alternative(where, False, candidate.note, chosen.predicted_finish_s * 1e3)


def _mark(alternative: Alternative, best: Chosen) -> Alternative:
    where = f"{best.node}/{best.partition.kind.value}/{best.partition.id}"
    if alternative.choice != where:
        return alternative
    return Alternative(where, True, alternative.reason, alternative.predicted_finish_ms)


def _summary(looked_at: Sequence[Alternative]) -> str:
    if not looked_at:
        return "no device has a free core, and cores may not be shared in time (--no-overcommit)"
    reasons = "; ".join(dict.fromkeys(a.reason for a in looked_at))
    return f"no device can take it now: {reasons}"


def _spell(cores: Iterable[int]) -> str:
    return ",".join(str(c) for c in sorted(cores))


def _mib(size: int) -> str:
    return f"{size / (1 << 20):,.0f} MiB"
