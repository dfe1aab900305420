"""The memory of a worker's device: where weights are placed, emptied out of and filled in again.

A storage is emptied and filled in place (torch's `resize_`), so that every tensor over it, tied weights and views too,
stays the object that the network knows.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import torch

from node_agent.worker.tensors import choose_device
from partywall.domain.fleet import DeviceKind, Partition, PartitionKind


class DeviceMemory(Protocol):
    """One device as one worker process has it."""

    @property
    def device(self) -> torch.device: ...

    @property
    def movable(self) -> bool:
        """Whether weights on it hold memory that is not the host's."""
        ...

    def place(self, module: torch.nn.Module) -> None:
        """Brings a network's tensors onto the device. RuntimeError ("out of memory"): it has no room."""
        ...

    def refill(self, storage: torch.UntypedStorage, size_bytes: int) -> None:
        """Gives an emptied storage its memory back; what it holds is undefined. RuntimeError: as of `place`."""
        ...

    def lock(self, area: memoryview) -> bool:
        """Page-locks host memory for copies; False where that is not to be had: it is pageable then."""
        ...

    def unlock(self, area: memoryview) -> None:
        """Ends what `lock` began, before the memory goes."""
        ...

    def synchronise(self) -> None:
        """Returns when all copies are done."""
        ...

    def release(self) -> None:
        """Gives free memory back to the driver, where others find it."""
        ...

    def used_bytes(self) -> int:
        """What this process's allocator has of the device; its context comes on top."""
        ...


class HostMemory:
    """The CPU as a device: weights lie in host memory already."""

    device = torch.device("cpu")
    movable = False

    def place(self, module: torch.nn.Module) -> None:
        module.to(self.device)

    def refill(self, storage: torch.UntypedStorage, size_bytes: int) -> None:
        storage.resize_(size_bytes)

    def lock(self, area: memoryview) -> bool:
        return False

    def unlock(self, area: memoryview) -> None:
        return

    def synchronise(self) -> None:
        return

    def release(self) -> None:
        return

    def used_bytes(self) -> int:
        return 0


class CudaMemory:
    """The GPU, MIG instance or MPS share that CUDA shows this process first.

    Args:
        cuda: What `torch.cuda` is; None: that.
        device: None: the first one.

    Raises:
        Unsupported: CUDA shows none.
    """

    movable = True

    def __init__(self, cuda: Any = None, device: torch.device | None = None) -> None:
        self.device = choose_device(DeviceKind.GPU) if device is None else device
        self._cuda = torch.cuda if cuda is None else cuda
        self._runtime = self._cuda.cudart()

    def place(self, module: torch.nn.Module) -> None:
        module.to(self.device)

    def refill(self, storage: torch.UntypedStorage, size_bytes: int) -> None:
        storage.resize_(size_bytes)

    def lock(self, area: memoryview) -> bool:
        # torch's own pinned memory is rounded up to a power of two and kept for good.
        try:
            answer = int(self._runtime.cudaHostRegister(_address(area), area.nbytes, 0))
        except RuntimeError:
            return False
        if answer:
            # CUDA repeats an error at the next launch, which is not at fault.
            try:
                torch.zeros(1, device=self.device)
            except RuntimeError:
                return False
        return not answer

    def unlock(self, area: memoryview) -> None:
        self._runtime.cudaHostUnregister(_address(area))

    def synchronise(self) -> None:
        self._cuda.synchronize(self.device)

    def release(self) -> None:
        self._cuda.empty_cache()

    def used_bytes(self) -> int:
        return int(self._cuda.memory_reserved(self.device))


class SimulatedMemory:
    """A device that is not there: tensors lie on the CPU, and their bytes are counted as a GPU's would be.

    Args:
        capacity_bytes: Where it ends; 0: nowhere.
        lockable_bytes: The most host memory that can be locked at once; None: any.
    """

    device = torch.device("cpu")
    movable = True

    def __init__(self, capacity_bytes: int = 0, lockable_bytes: int | None = None) -> None:
        self.capacity_bytes = capacity_bytes
        self._lockable_bytes = lockable_bytes
        self.locked_bytes = 0
        self._placed: weakref.WeakSet[torch.nn.Module] = weakref.WeakSet()

    def place(self, module: torch.nn.Module) -> None:
        self._take(sum(one.nbytes() for one in storages(module, self.device)))
        for tensor in (*module.parameters(), *module.buffers()):
            # What was read from a file is memory of the file's, and cannot be emptied.
            tensor.data = tensor.data.clone()
        self._placed.add(module)

    def refill(self, storage: torch.UntypedStorage, size_bytes: int) -> None:
        self._take(size_bytes)
        storage.resize_(size_bytes)

    def lock(self, area: memoryview) -> bool:
        if self._lockable_bytes is not None and self.locked_bytes + area.nbytes > self._lockable_bytes:
            return False
        self.locked_bytes += area.nbytes
        return True

    def unlock(self, area: memoryview) -> None:
        self.locked_bytes -= area.nbytes

    def synchronise(self) -> None:
        return

    def release(self) -> None:
        return

    def used_bytes(self) -> int:
        return sum(one.nbytes() for module in self._placed for one in storages(module, self.device))

    def _take(self, size_bytes: int) -> None:
        if self.capacity_bytes and self.used_bytes() + size_bytes > self.capacity_bytes:
            # As torch words it.
            raise RuntimeError(f"CUDA out of memory. Tried to allocate {size_bytes} bytes of a simulated device")


def open_memory(kind: DeviceKind, partition: Partition | None = None) -> DeviceMemory:
    """The memory behind a worker's partition. A CPU worker in a GPU's partition stands behind a simulated GPU.

    Raises:
        Unsupported: A GPU partition in which CUDA shows no device.
    """
    if kind is DeviceKind.GPU:
        return CudaMemory()
    if partition is not None and partition.kind in (PartitionKind.MPS, PartitionKind.MIG):
        return SimulatedMemory(partition.memory_bytes)
    return HostMemory()


def storages(module: torch.nn.Module, device: torch.device) -> list[torch.UntypedStorage]:
    """Every storage that a network holds on the device, once each; emptied ones are left out."""
    found: dict[int, torch.UntypedStorage] = {}
    for tensor in _tensors(module):
        if tensor.device == device and (storage := tensor.untyped_storage()).nbytes():
            found.setdefault(storage.data_ptr(), storage)
    return list(found.values())


def _tensors(module: torch.nn.Module) -> Iterator[torch.Tensor]:
    yield from module.parameters()
    yield from module.buffers()
    for part in module.modules():
        # Tables and caches that a network keeps beside its buffers.
        yield from (value for value in vars(part).values() if isinstance(value, torch.Tensor))


def _address(area: memoryview) -> int:
    return int(np.frombuffer(area, np.uint8).ctypes.data)
