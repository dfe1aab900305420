"""What a node has to give out."""

from __future__ import annotations

from isolation.devices.cpu import cpu_device
from isolation.devices.library import GpuLibrary
from partywall.domain.fleet import Device, DeviceKind


def inventory(gpu_library: GpuLibrary | None, cores: tuple[int, ...] = ()) -> tuple[Device, ...]:
    """The node's devices: its GPUs (id: their UUID), and its CPU, always the last.

    Args:
        gpu_library: The driver; None: no GPU is looked for.
        cores: Cores of the CPU that may be given out; empty: all this process may run on.
    """
    gpus = gpu_library.gpus() if gpu_library else ()
    return (
        *(Device(g.uuid, DeviceKind.GPU, g.name, g.memory_bytes, g.multiprocessors) for g in gpus),
        cpu_device(cores),
    )
