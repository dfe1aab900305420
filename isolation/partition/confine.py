"""Taking a confinement on, and seeing what came of it: called by the worker itself, on itself."""

from __future__ import annotations

import os
import resource
from pathlib import Path

from isolation.partition.partitioner import Observation, WorkerConfinement


def confine_self(confinement: WorkerConfinement) -> int:
    """Applies environment, affinity and memory cap to this process; threads are the caller's (they belong to torch).

    Call it in a process with one thread: affinity of threads that already run stays as it was.

    Returns:
        Bytes this process had before the cap: pass them to `observe_self`. The cap is on what is added, so that the
        interpreter and its libraries are not charged to the model.
    """
    for name, value in confinement.environment.items():
        if value:
            os.environ[name] = value
        else:
            os.environ.pop(name, None)
    if confinement.cores:
        os.sched_setaffinity(0, confinement.cores)
    base = data_bytes()
    if confinement.memory_bytes:
        # RLIMIT_DATA counts private writable memory since Linux 4.7; RLIMIT_AS would charge mapped files and
        # reserved address space too, which numeric libraries take by the gigabyte.
        limit = base + confinement.memory_bytes
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    return base


def observe_self(base_bytes: int, threads: int | None = None) -> Observation:
    """What this process sees of its wall on the host side."""
    soft, _ = resource.getrlimit(resource.RLIMIT_DATA)
    limit = None if soft == resource.RLIM_INFINITY else soft - base_bytes
    return Observation(os.getpid(), tuple(sorted(os.sched_getaffinity(0))), threads, limit)


def data_bytes() -> int:
    """Private writable memory of this process, as RLIMIT_DATA counts it."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmData:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status has no VmData line")
