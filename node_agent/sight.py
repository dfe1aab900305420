"""What can be seen of a worker's wall: by itself when it starts, by the kernel and the driver at any later time."""

from __future__ import annotations

import os
import resource
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from isolation.partition.partitioner import Observation, WorkerConfinement
from isolation.partition.simulated_node import SimulatedNode
from partywall.domain.fleet import Device, DeviceKind, Partition


@dataclass(frozen=True, slots=True)
class Check:
    """One comparison, as text for people."""

    what: str
    expected: str
    seen: str
    ok: bool


class Sight(Protocol):
    """Who says what a worker sees of its device."""

    def at_start(
        self, partition: Partition, pid: int, seen: Mapping[str, str], confinement: WorkerConfinement
    ) -> Observation:
        """From what the worker said of itself.

        Raises:
            PartywallError: The device refuses the worker.
        """
        ...

    def again(self, partition: Partition, start: Observation) -> Observation:
        """As the kernel shows it now; what cannot be read from outside stays as it was at the start."""
        ...

    def ended(self, partition: Partition, pid: int) -> None:
        """The worker is gone."""
        ...


class KernelSight:
    """The real side."""

    def at_start(
        self, partition: Partition, pid: int, seen: Mapping[str, str], confinement: WorkerConfinement
    ) -> Observation:
        cores = tuple(int(c) for c in seen.get("cores", "").split(",") if c)
        # The limit is over what the process had before: what counts is whether one is set where one was asked for.
        capped = seen.get("memory_cap_bytes", "0") != "0"
        return Observation(
            pid,
            cores or None,
            int(seen.get("threads", "0")) or None,
            partition.memory_bytes if capped else None,
            multiprocessors=int(seen["multiprocessors"]) if "multiprocessors" in seen else None,
            device_uuid=seen.get("device_uuid"),
            device_memory_bytes=int(seen["probe_bytes"]) if "probe_bytes" in seen else None,
            probe_refused=seen["probe_refused"] == "yes" if "probe_refused" in seen else None,
        )

    def again(self, partition: Partition, start: Observation) -> Observation:
        try:
            capped = resource.prlimit(start.pid, resource.RLIMIT_DATA)[1] != resource.RLIM_INFINITY
        except PermissionError:
            capped = True  # not ours to read from outside: what the worker said at its start stands
        return replace(
            start, cores=affinity(start.pid), memory_limit_bytes=start.memory_limit_bytes if capped else None
        )

    def ended(self, partition: Partition, pid: int) -> None:
        """The driver notices by itself."""


class SimulatedSight:
    """Simulated GPUs beside this machine's CPU."""

    def __init__(self, node: SimulatedNode, devices: tuple[Device, ...]) -> None:
        self._node = node
        self._gpus = {d.id for d in devices if d.kind is DeviceKind.GPU}
        self._kernel = KernelSight()

    def at_start(
        self, partition: Partition, pid: int, seen: Mapping[str, str], confinement: WorkerConfinement
    ) -> Observation:
        if partition.device_id not in self._gpus:
            return self._kernel.at_start(partition, pid, seen, confinement)
        return self._node.cuda_process(partition, pid, confinement.environment)

    def again(self, partition: Partition, start: Observation) -> Observation:
        return start if partition.device_id in self._gpus else self._kernel.again(partition, start)

    def ended(self, partition: Partition, pid: int) -> None:
        if partition.device_id in self._gpus:
            self._node.end_process(partition, pid)


def affinity(pid: int) -> tuple[int, ...]:
    """Cores that any thread of a process may run on.

    Raises:
        ProcessLookupError: It is gone.
    """
    cores: set[int] = set()
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except FileNotFoundError as error:
        raise ProcessLookupError(pid) from error
    for thread in threads:
        try:
            cores |= os.sched_getaffinity(int(thread))
        except ProcessLookupError:
            continue  # a thread that ended meanwhile
    if not cores:
        raise ProcessLookupError(pid)
    return tuple(sorted(cores))


def no_new_privileges(pid: int) -> str:
    """`yes`, `no`, or `unknown` where the kernel does not say."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return "unknown"
    line = next((line for line in text.splitlines() if line.startswith("NoNewPrivs:")), "")
    return {"1": "yes", "0": "no"}.get(line.partition(":")[2].strip(), "unknown")
