"""numpy and torch, and the device a worker computes on."""

from __future__ import annotations

import numpy as np
import torch

from isolation.engine import Array
from partywall.domain.fleet import DeviceKind
from partywall.errors import Unsupported

_BF16 = np.dtype("V2")


def choose_device(kind: DeviceKind) -> torch.device:
    """The device of this worker's partition.

    Raises:
        Unsupported: A GPU partition in which CUDA shows no device.
    """
    if kind is DeviceKind.CPU:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise Unsupported("this worker's partition is on a GPU, but CUDA shows none; see `partywall doctor`")
    return torch.device("cuda", 0)


def to_torch(array: Array, device: torch.device) -> torch.Tensor:
    """A tensor of the same values; shares the array's memory on the CPU where the array may be written."""
    if array.dtype == _BF16:
        return to_torch(array.view(np.int16), device).view(torch.bfloat16)
    # torch has no read-only tensors; a copy of what came inside a message is small.
    tensor = torch.from_numpy(array if array.flags.writeable else array.copy())
    return tensor if device.type == "cpu" else tensor.to(device)


def to_numpy(tensor: torch.Tensor) -> Array:
    """An array of the same values on the host; BF16 as two-byte voids."""
    host = tensor.detach().cpu()
    if host.dtype is torch.bfloat16:
        return host.contiguous().view(torch.int16).numpy().view(_BF16)
    array: Array = host.numpy()
    return array


def module_bytes(module: torch.nn.Module) -> int:
    """Bytes of parameters and buffers, each storage counted once."""
    seen = {t.data_ptr(): t.numel() * t.element_size() for t in (*module.parameters(), *module.buffers())}
    return sum(seen.values())
