"""The CPU as a device: its compute units are the cores this process may run on."""

from __future__ import annotations

import os
from pathlib import Path

from partywall.domain.fleet import Device, DeviceKind

CPU_DEVICE_ID = "cpu"
_UNLIMITED = 1 << 60  # cgroup v1 writes a huge number for "no limit"


def cpu_device(
    cores: tuple[int, ...] = (), proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")
) -> Device:
    """This machine's CPU.

    Args:
        cores: Core numbers that may be given out; empty: all this process may run on.
        proc: Where procfs is mounted.
        cgroups: Where the control groups (v1 or v2) are mounted.

    Raises:
        ValueError: `cores` names a core this process may not run on.
    """
    allowed = tuple(sorted(os.sched_getaffinity(0)))
    if missing := sorted(set(cores) - set(allowed)):
        raise ValueError(f"cores {missing} are not among those this process may run on {list(allowed)}")
    usable = tuple(sorted(cores)) or allowed
    return Device(
        id=CPU_DEVICE_ID,
        kind=DeviceKind.CPU,
        name=_model_name(proc),
        memory_bytes=memory_limit_bytes(proc, cgroups),
        compute_units=len(usable),
        cores=usable,
    )


def memory_limit_bytes(proc: Path, cgroups: Path) -> int:
    """The smaller of physical memory and the tightest limit of the control groups this process is in."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([physical, *_cgroup_limits(proc, cgroups)])


def _cgroup_limits(proc: Path, cgroups: Path) -> list[int]:
    limits = []
    for line in _read(proc / "self" / "cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            limits += _limits_upwards(cgroups, path, "memory.max")
        elif "memory" in controllers.split(","):
            limits += _limits_upwards(cgroups / "memory", path, "memory.limit_in_bytes")
    return limits


def _limits_upwards(mount: Path, path: str, file: str) -> list[int]:
    # Inside a container the path may name a group that only the host's mount shows: the mount's root is ours then.
    folders = [mount]
    for part in Path(path).parts[1:]:
        folders.append(folders[-1] / part)
    texts = (_read(folder / file).strip() for folder in folders)
    values = (int(text) for text in texts if text.isdigit())
    return [value for value in values if 0 < value < _UNLIMITED]


def _model_name(proc: Path) -> str:
    for line in _read(proc / "cpuinfo").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return os.uname().machine


def _read(path: Path) -> str:
    # A file that is absent, or not ours to read, sets no limit that we could know.
    try:
        return path.read_text()
    except OSError:
        return ""
