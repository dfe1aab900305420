"""A wall, line by line: what was given beside what is seen. Pure; the verdict itself is the partitioner's."""

from __future__ import annotations

from isolation.partition.attest import share_multiprocessors
from isolation.partition.partitioner import Observation
from node_agent.sight import Check
from partywall.domain.fleet import Device, DeviceKind, Partition, PartitionKind

_TPC = 2


def compare(
    device: Device, partition: Partition, seen: Observation, clients: tuple[int, ...] | None
) -> tuple[Check, ...]:
    """What was given beside what is seen, one line each."""
    checks = [Check("process", f"pid {seen.pid}", "alive", True)]
    if device.kind is DeviceKind.CPU:
        wanted = tuple(sorted(partition.cores or device.cores))
        checks.append(Check("affinity mask", _numbers(wanted), _numbers(seen.cores or ()), seen.cores == wanted))
        threads = seen.threads or 0
        checks.append(Check("threads", f"at most {len(wanted)}", str(threads or "unknown"), threads <= len(wanted)))
        if partition.memory_bytes:
            limit = seen.memory_limit_bytes
            ok = limit is not None and limit <= partition.memory_bytes
            checks.append(Check("memory cap", _mib(partition.memory_bytes), _mib(limit), ok))
        return tuple(checks)
    if partition.kind is not PartitionKind.MIG:
        uuid = seen.device_uuid or "unknown"
        checks.append(Check("device", device.id, uuid, seen.device_uuid == device.id))
        given = share_multiprocessors(device.compute_units, partition.share_percent)
        near = seen.multiprocessors is not None and abs(seen.multiprocessors - given) <= _TPC
        checks.append(Check("SM count", str(given), str(seen.multiprocessors or "unknown"), near))
    else:
        checks.append(Check("MIG device", "an instance", seen.device_uuid or "unknown", bool(seen.device_uuid)))
    if partition.kind is PartitionKind.MPS:
        attached = clients is not None and seen.pid in clients
        checks.append(
            Check("client list", f"has {seen.pid}", "unknown" if clients is None else _numbers(clients), attached)
        )
        if partition.memory_bytes:
            refused = {None: "not probed", True: "overrun refused", False: "overrun granted"}[seen.probe_refused]
            checks.append(Check("memory cap", _mib(partition.memory_bytes), refused, seen.probe_refused is True))
    return tuple(checks)


def _numbers(values: tuple[int, ...]) -> str:
    return ",".join(str(v) for v in values) or "none"


def _mib(size: int | None) -> str:
    return "none" if size is None else f"{size >> 20} MiB"
