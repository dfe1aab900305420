"""What `doctor` looks at. Each function asks one part of the machine and never raises for what it finds."""

from __future__ import annotations

import enum
import importlib.metadata
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from partywall.cli.values import human_bytes

_MIN_NOFILE = 4096
_MIN_FREE_BYTES = 1 << 30
_LIBRARIES: tuple[tuple[str, str, str], ...] = (
    ("grpcio", "1.81.1", "partywall"),
    ("protobuf", "6.33.5", "partywall"),
    ("numpy", "1.26", "partywall"),
    ("cryptography", "50", "partywall"),
    ("sqlalchemy", "2.1", "partywall[router]"),
    ("alembic", "1.16", "partywall[router]"),
    ("uvloop", "0.21", "partywall[router]"),
    ("torch", "2.10", "partywall[agent]"),
    ("transformers", "5", "partywall[agent]"),
    ("safetensors", "0.5", "partywall[agent]"),
    ("nvidia-ml-py", "13.580", "partywall[agent]"),
)
_SANDBOX_PROBE = """
import json, os
from isolation.sandbox import LinuxKernel, apply, system_policy
from partywall.domain.fleet import DeviceKind
layers = apply(system_policy(DeviceKind.CPU, os.environ), LinuxKernel())
print(json.dumps([[layer.layer.value, layer.active, layer.detail] for layer in layers]))
"""


class Status(enum.StrEnum):
    OK = "ok"
    INFO = "info"
    """Not here, and not needed to serve from the CPU."""
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Check:
    """One finding; `fix` is empty where nothing is to be done."""

    area: str
    name: str
    status: Status
    found: str
    fix: str = ""

    def row(self) -> dict[str, Any]:
        return {
            "area": self.area,
            "check": self.name,
            "status": self.status.value,
            "found": self.found,
            "fix": self.fix,
        }


def cores() -> list[Check]:
    """All cores, and those this process may use."""
    allowed = sorted(os.sched_getaffinity(0))
    text = f"{len(allowed)} of {os.cpu_count()} usable: {_ranges(allowed)}"
    if len(allowed) < 2:
        return [Check("cpu", "cores", Status.WARN, text, "give it two cores or more to wall off two tenants")]
    return [Check("cpu", "cores", Status.OK, text)]


def memory() -> list[Check]:
    """The machine's memory and what is free."""
    values = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    total, free = (int(values[key].split()[0]) << 10 for key in ("MemTotal", "MemAvailable"))
    return [
        Check("memory", "ram", Status.OK, f"{human_bytes(free)} of {human_bytes(total)} available"),
        _shared_memory(),
    ]


def _shared_memory() -> Check:
    try:
        free = shutil.disk_usage("/dev/shm").free  # noqa: S108 - asked about, not written to
    except OSError as failure:
        return Check("memory", "shared memory", Status.FAIL, str(failure.strerror), "mount a tmpfs on /dev/shm")
    if free < 256 << 20:
        fix = "give /dev/shm 256 MiB or more (containers: --shm-size)"
        return Check("memory", "shared memory", Status.WARN, f"{human_bytes(free)} free", fix)
    return Check("memory", "shared memory", Status.OK, f"{human_bytes(free)} free in /dev/shm")


def cgroups() -> list[Check]:
    """Version 2 is what memory and pid limits need."""
    if Path("/sys/fs/cgroup/cgroup.controllers").is_file():
        return [Check("kernel", "cgroup", Status.OK, "version 2")]
    hybrid = Path("/sys/fs/cgroup/unified").is_dir()
    found = "version 1 (hybrid)" if hybrid else "version 1" if Path("/sys/fs/cgroup").is_dir() else "none"
    return [Check("kernel", "cgroup", Status.INFO, found, "boot with cgroup v2 to cap memory by cgroup")]


def sandbox() -> list[Check]:
    """The layers as a worker gets them: put up for real in a process that ends at once."""
    release = Check("kernel", "release", Status.OK, platform.release())
    command = [sys.executable, "-c", _SANDBOX_PROBE]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
        layers = json.loads(answer.stdout)
    except (subprocess.SubprocessError, ValueError) as failure:
        detail = getattr(failure, "stderr", None) or str(failure)
        last = detail.strip().splitlines()[-1] if detail.strip() else "no output"
        return [release, Check("sandbox", "layers", Status.WARN, f"cannot be tried: {last}")]
    return [release, _landlock_abi(), *(_layer(*layer) for layer in layers)]


def _layer(name: str, active: bool, detail: str) -> Check:
    fix = "" if active else "use a kernel of 6.7 or newer with Landlock switched on (lsm=landlock,...)"
    return Check("sandbox", name, Status.OK if active else Status.WARN, detail, fix)


def _landlock_abi() -> Check:
    from isolation.sandbox import LinuxKernel

    abi = LinuxKernel().landlock_abi()
    return Check("sandbox", "landlock abi", Status.OK if abi else Status.WARN, str(abi))


def limits() -> list[Check]:
    """Descriptors, processes, core dumps."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    low = hard != resource.RLIM_INFINITY and hard < _MIN_NOFILE
    fix = f"raise it to {_MIN_NOFILE}: ulimit -n, or LimitNOFILE= in the service" if low else ""
    processes, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    return [
        Check("limits", "open files", Status.WARN if low else Status.OK, f"{_limit(soft)} (up to {_limit(hard)})", fix),
        Check("limits", "processes", Status.OK, _limit(processes)),
    ]


def disk(data_dir: Path | None) -> list[Check]:
    """Free space where sealed models are stored."""
    where = data_dir or Path.cwd()
    while not where.exists() and where != where.parent:
        where = where.parent
    free = shutil.disk_usage(where).free
    text = f"{human_bytes(free)} free at {where}"
    if free < _MIN_FREE_BYTES:
        return [Check("disk", "data directory", Status.WARN, text, "free at least 1 GiB, or take another --data-dir")]
    return [Check("disk", "data directory", Status.OK, text)]


def libraries() -> list[Check]:
    """Versions of what is installed, against what this release needs."""
    out = [Check("python", "interpreter", Status.OK, platform.python_version())]
    for name, minimum, package in _LIBRARIES:
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            status = Status.FAIL if package == "partywall" else Status.INFO
            out.append(Check("library", name, status, "not installed", f"pip install '{package}'"))
            continue
        if _numbers(version) < _numbers(minimum):
            fix = f"pip install --upgrade '{name}>={minimum}'"
            out.append(Check("library", name, Status.FAIL, f"{version}, needs {minimum}", fix))
        else:
            out.append(Check("library", name, Status.OK, version))
    return out


def _numbers(version: str) -> tuple[int, ...]:
    parts: list[int] = []
    for part in version.partition("+")[0].split("."):
        if not part.isdigit():
            break
        parts.append(int(part))
    return tuple(parts)


def _limit(value: int) -> str:
    return "unlimited" if value == resource.RLIM_INFINITY else str(value)


def install_hint(extra: str) -> str:
    return f"pip install 'partywall[{extra}]'"


def _ranges(numbers: list[int]) -> str:
    out: list[list[int]] = []
    for number in numbers:
        if out and out[-1][1] + 1 == number:
            out[-1][1] = number
        else:
            out.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in out)
