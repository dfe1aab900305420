"""What a worker may still do, and applying it layer by layer."""

from __future__ import annotations

import enum
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from isolation.sandbox.kernel import SandboxKernel
from isolation.sandbox.landlock import ruleset_for_abi
from partywall.domain.fleet import DeviceKind
from partywall.errors import Unsupported


class Layer(enum.StrEnum):
    """One wall of the sandbox."""

    PARENT_DEATH = "parent_death"
    NO_NEW_PRIVS = "no_new_privs"
    NO_CORE_DUMPS = "no_core_dumps"
    NOT_DUMPABLE = "not_dumpable"
    LANDLOCK = "landlock"


@dataclass(frozen=True, slots=True)
class LayerState:
    """Whether a layer stands, as read back from the kernel; `detail` says how or why not."""

    layer: Layer
    active: bool
    detail: str


@dataclass(frozen=True, slots=True)
class SandboxPolicy:
    """`required`: a missing layer is an error instead of a report."""

    read_paths: tuple[Path, ...] = ()
    write_paths: tuple[Path, ...] = ()
    required: bool = False


_LIBRARY_ROOTS = ("/usr", "/lib", "/lib32", "/lib64", "/bin", "/opt/cuda")
_SYSTEM_FILES = (
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/etc/timezone",
    "/dev/urandom",
    "/dev/random",
    "/dev/zero",
    "/proc/self",
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/sys/vm",
    "/proc/sys/kernel",
    "/sys/devices/system",
    "/sys/fs/cgroup",
    "/sys/kernel/mm/transparent_hugepage",
)
_GPU_READ = ("/proc", "/sys", "/etc/nvidia", "/etc/OpenCL", "/run/nvidia-persistenced")
# MPS keeps its shared state in /dev/shm; the rest are the driver's device nodes.
_GPU_WRITE = (
    "/dev/shm",  # noqa: S108 - a rule about it, not a file in it
    "/dev/nvidiactl",
    "/dev/nvidia-uvm",
    "/dev/nvidia-uvm-tools",
    "/dev/nvidia-caps",
    "/dev/nvidia-caps-imex-channels",
    "/dev/nvidia-modeset",
    # CUDA names its threads there.
    "/proc/self/task",
)
_OUR_PACKAGES = ("partywall", "node_agent", "isolation")


def system_policy(device_kind: DeviceKind, environment: Mapping[str, str]) -> SandboxPolicy:
    """What every worker needs: the interpreter, its libraries, our own packages, and the device's nodes.

    Our packages are listed one by one: a checkout beside them may hold a data directory with keys in it. Other folders
    on the search path count as libraries where packages were installed into them, as PYTHONPATH or a `.pth` file do.
    """
    packages = [
        Path(file).parent for name in _OUR_PACKAGES if (file := getattr(sys.modules.get(name), "__file__", None))
    ]
    libraries = [Path(sys.prefix), Path(sys.base_prefix), *installed_folders(sys.path)]
    reads = [*libraries, *packages, *map(Path, _LIBRARY_ROOTS), *map(Path, _SYSTEM_FILES)]
    writes = [Path("/dev/null")]
    if device_kind is DeviceKind.GPU:
        reads += map(Path, _GPU_READ)
        writes += [*map(Path, _GPU_WRITE), *sorted(Path("/dev").glob("nvidia[0-9]*"))]
        if pipe := environment.get("CUDA_MPS_PIPE_DIRECTORY"):
            writes.append(Path(pipe))
    return SandboxPolicy(tuple(dict.fromkeys(reads)), tuple(dict.fromkeys(writes)))


def installed_folders(search_path: Sequence[str]) -> list[Path]:
    """The folders of a module search path that an installer filled: each has at least one `*.dist-info`."""
    return [Path(one) for one in search_path if one and next(Path(one).glob("*.dist-info"), None) is not None]


def apply(policy: SandboxPolicy, kernel: SandboxKernel) -> tuple[LayerState, ...]:
    """Puts up every layer that the kernel has, in the order they depend on each other, and reads each one back.

    Raises:
        Unsupported: `policy.required` and a layer does not stand; names it.
    """
    states = (
        _layer(
            Layer.PARENT_DEATH,
            lambda: kernel.set_parent_death_signal(signal.SIGKILL),
            lambda: kernel.parent_death_signal() == signal.SIGKILL,
        ),
        _layer(Layer.NO_CORE_DUMPS, lambda: kernel.set_core_limit(0), lambda: kernel.core_limit() == 0),
        _layer(Layer.NOT_DUMPABLE, kernel.set_not_dumpable, lambda: not kernel.dumpable()),
        _layer(Layer.NO_NEW_PRIVS, kernel.set_no_new_privs, kernel.no_new_privs),
        _landlock(policy, kernel),
    )
    missing = [state for state in states if not state.active]
    if policy.required and missing:
        raise Unsupported(
            f"sandbox layer {missing[0].layer} is not available here ({missing[0].detail}); "
            "use a kernel that has it, or start the agent without --sandbox-required",
            fields={"layer": missing[0].layer.value},
        )
    return states


def _layer(layer: Layer, put_up: Callable[[], None], stands: Callable[[], bool]) -> LayerState:
    try:
        put_up()
    except OSError as failure:
        return LayerState(layer, False, failure.strerror or str(failure))
    return LayerState(layer, True, "yes") if stands() else LayerState(layer, False, "the kernel did not keep it")


def _landlock(policy: SandboxPolicy, kernel: SandboxKernel) -> LayerState:
    abi = kernel.landlock_abi()
    if abi < 1:
        return LayerState(Layer.LANDLOCK, False, "this kernel has no Landlock")
    try:
        kernel.landlock_restrict(ruleset_for_abi(abi, policy.read_paths, policy.write_paths))
    except OSError as failure:
        return LayerState(Layer.LANDLOCK, False, failure.strerror or str(failure))
    return LayerState(Layer.LANDLOCK, True, f"abi {abi}")


# COVERAGE_PROCESS_CONFIG holds settings of the coverage tool; without it forked workers go unmeasured.
_KEPT_VARIABLES = frozenset(
    {"PATH", "PYTHONPATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "LD_LIBRARY_PATH", "COVERAGE_PROCESS_CONFIG"}
)
_KEPT_PREFIXES = ("CUDA_", "NVIDIA_")


def scrub_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The few variables a worker needs: no credential that an operator's shell holds reaches a tenant's process."""
    return {
        name: value for name, value in environment.items() if name in _KEPT_VARIABLES or name.startswith(_KEPT_PREFIXES)
    }
