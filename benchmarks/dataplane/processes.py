"""What processes cost: CPU time and memory from /proc, and the machine they run on."""

from __future__ import annotations

import os
import platform
import resource
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
PROC = Path("/proc")


def cpu_s(pids: Iterable[int]) -> float:
    """User and system seconds of the processes so far, all their threads included.

    Raises:
        ProcessLookupError: One of them has ended; what it used can no longer be told.
    """
    return sum(_stat_fields(pid)[0] for pid in pids)


def children_cpu_s() -> float:
    """Seconds of this process's children that have ended and been waited for: load clients."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def busy_s() -> float:
    """Seconds all cores together were not idle since the machine started."""
    fields = [int(field) for field in (PROC / "stat").read_text().splitlines()[0].split()[1:]]
    user, nice, system, _idle, _iowait, irq, softirq = fields[:7]
    return (user + nice + system + irq + softirq) / _TICKS


def descendants(pid: int) -> tuple[int, ...]:
    """All processes below `pid`, sorted; without itself."""
    parents: dict[int, int] = {}
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = _stat_fields(int(entry.name))[1]
            except ProcessLookupError:
                continue
    found: set[int] = set()
    edge = {pid}
    while edge:
        edge = {child for child, parent in parents.items() if parent in edge} - found
        found |= edge
    return tuple(sorted(found))


def pss_mib(pids: Sequence[int]) -> float:
    """Resident memory in MiB, pages shared between processes counted in proportion."""
    kib = 0
    for pid in pids:
        for line in (PROC / str(pid) / "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                kib += int(line.split()[1])
    return kib / 1024


def rss_mib(pids: Sequence[int]) -> float:
    """Resident memory in MiB, shared pages counted in every process."""
    pages = sum(int((PROC / str(pid) / "statm").read_text().split()[1]) for pid in pids)
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


@dataclass(frozen=True, slots=True)
class Machine:
    """Where figures were taken."""

    cpu: str
    cores: int
    memory_gib: float
    kernel: str
    python: str
    grpcio: str
    uvloop: str


def machine() -> Machine:
    """This machine, as far as results depend on it."""
    names = [line.partition(":")[2].strip() for line in _lines(PROC / "cpuinfo") if line.startswith("model name")]
    memory_kib = next(int(line.split()[1]) for line in _lines(PROC / "meminfo") if line.startswith("MemTotal"))
    return Machine(
        cpu=names[0] if names else platform.machine(),
        cores=len(os.sched_getaffinity(0)),
        memory_gib=round(memory_kib / (1 << 20), 1),
        kernel=platform.release(),
        python=sys.version.split()[0],
        grpcio=version("grpcio"),
        uvloop=version("uvloop"),
    )


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


def _stat_fields(pid: int) -> tuple[float, int]:
    """(CPU seconds, parent) of a process."""
    try:
        text = (PROC / str(pid) / "stat").read_text()
    except FileNotFoundError as error:
        raise ProcessLookupError(f"process {pid} has ended") from error
    # The name, in parentheses, may hold spaces and parentheses itself.
    fields = text.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS, int(fields[1])
