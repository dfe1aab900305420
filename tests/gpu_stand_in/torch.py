"""A stand-in for torch on a GPU behind MPS, for a dry run of `benchmarks/gpu_checks.py`: what the player asks of it, as
it was measured on an H100, over the folder of the MPS stand-in."""

import os
import time
from pathlib import Path
from types import SimpleNamespace

uint8 = float16 = None
TOTAL_SMS = 132


class OutOfMemoryError(RuntimeError):
    pass


def _pipe():
    pipe = Path(os.environ.get("CUDA_MPS_PIPE_DIRECTORY", "/nonexistent"))
    return pipe if (pipe / "nvidia-cuda-mps-control.pid").exists() else None


def _attach():
    if (pipe := _pipe()) is not None:
        (pipe / "server").write_text("4000000")
        (pipe / f"client_{os.getpid()}").touch()


def zeros(count, device):
    _attach()


def _properties(number):
    share = int(os.environ.get("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE") or 100) if _pipe() is not None else 100
    shown = TOTAL_SMS if share == 100 else TOTAL_SMS * share // 100 // 2 * 2
    uuid = os.environ["CUDA_VISIBLE_DEVICES"].removeprefix("GPU-")
    return SimpleNamespace(multi_processor_count=shown, uuid=uuid)


_held = 0


def empty(size, dtype, device):
    global _held
    limit = os.environ.get("CUDA_MPS_PINNED_DEVICE_MEM_LIMIT") or "0=999999M"
    if _held + size > int(limit.removeprefix("0=").removesuffix("M")) << 20:
        raise OutOfMemoryError("CUDA out of memory")
    _held += size


def randn(*sizes, device, dtype):
    return None


def mm(a, b):
    time.sleep(0.001)
    if (pipe := _pipe()) is not None and not (pipe / f"client_{os.getpid()}").exists():
        raise RuntimeError("CUDA error: MPS client terminated")


cuda = SimpleNamespace(
    synchronize=lambda: None,
    empty_cache=lambda: None,
    get_device_properties=_properties,
    OutOfMemoryError=OutOfMemoryError,
)
