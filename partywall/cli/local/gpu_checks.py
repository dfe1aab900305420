"""What doctor looks at where there are GPUs: the driver, MIG, MPS, and what this user may change."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from partywall.cli.local.checks import Check, Status, install_hint
from partywall.cli.values import human_bytes
from partywall.errors import PartywallError


def gpus() -> list[Check]:
    """GPUs through the driver, with their MIG mode."""
    try:
        from isolation.devices.nvml import open_nvml
    except ModuleNotFoundError as missing:
        return [Check("gpu", "driver", Status.INFO, f"{missing.name} is not installed", install_hint("agent"))]
    try:
        library = open_nvml()
        if library is None:
            return [Check("gpu", "driver", Status.INFO, "no NVIDIA driver", "install the driver to serve from GPUs")]
        with library:
            found = [_gpu(library, gpu) for gpu in library.gpus()]
    except PartywallError as failure:
        return [Check("gpu", "driver", Status.FAIL, failure.message, "check with nvidia-smi")]
    return [_driver(), *found]


def _gpu(library: Any, gpu: Any) -> Check:
    what = f"{gpu.name}, {human_bytes(gpu.memory_bytes)}, {gpu.multiprocessors} SMs"
    if not gpu.mig_capable:
        return Check("gpu", f"gpu {gpu.index}", Status.OK, f"{what}, cannot do MIG")
    try:
        mode = library.mig_mode(gpu.uuid)
    except PartywallError as failure:
        return Check("gpu", f"gpu {gpu.index}", Status.WARN, f"{what}, MIG mode unknown: {failure.message}")
    state = "on" if mode.current else "off"
    if mode.current != mode.pending:
        return Check(
            "gpu", f"gpu {gpu.index}", Status.WARN, f"{what}, MIG {state}, a change is waiting", "reset the GPU"
        )
    return Check("gpu", f"gpu {gpu.index}", Status.OK, f"{what}, MIG {state}")


def _driver() -> Check:
    path = Path("/proc/driver/nvidia/version")
    text = path.read_text().splitlines()[0] if path.is_file() else "present"
    return Check("gpu", "driver", Status.OK, text.removeprefix("NVRM version:").strip())


def mps() -> list[Check]:
    """The control binary, and whether a daemon answers on the usual pipe."""
    binary = shutil.which("nvidia-cuda-mps-control")
    if binary is None:
        fix = "install the driver's compute utilities to share a GPU by MPS"
        return [Check("mps", "control binary", Status.INFO, "not found", fix)]
    pipe = Path(os.environ.get("CUDA_MPS_PIPE_DIRECTORY", "/tmp/nvidia-mps"))  # noqa: S108 - CUDA's own default
    running = (pipe / "control").exists()
    found = f"pipe {pipe} is there" if running else f"no daemon at {pipe}"
    fix = "" if running else "the agent starts one when it needs it"
    return [
        Check("mps", "control binary", Status.OK, binary),
        Check("mps", "daemon", Status.OK if running else Status.INFO, found, fix),
    ]


def privileges() -> list[Check]:
    """What this user may change on the GPUs; empty where there is no driver."""
    if not Path("/proc/driver/nvidia").is_dir():
        return []
    if os.geteuid() == 0:
        return [Check("gpu", "privileges", Status.OK, "root: may change MIG")]
    found = "not root: MIG instances are used as they stand, and none is made"
    return [Check("gpu", "privileges", Status.INFO, found, "agent --observe-only changes nothing on a GPU at all")]
