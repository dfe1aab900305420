"""A network whose weights can leave the device: parked in host memory of the worker's own process, and brought back.

The host memory is anonymous, kept out of core dumps, and page-locked where the system allows it: a copy from pageable
memory goes through a staging buffer of the driver's at a fraction of the link's rate.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from isolation.engine import Moved
from node_agent.worker.device_memory import DeviceMemory, storages
from node_agent.worker.loader import anonymous_memory
from partywall.errors import Unsupported

_ALIGNED_BYTES = 256


@dataclass(slots=True)
class _Parked:
    """Weights in host memory: each storage with its place in the area."""

    area: memoryview
    pinned: bool
    places: list[tuple[torch.UntypedStorage, int, int]]
    """(storage, first byte, size)."""


class MovableWeights:
    """The weights of one network on one device; an `isolation.engine.Parkable`. The engines' models inherit from it."""

    def __init__(self, module: torch.nn.Module, memory: DeviceMemory) -> None:
        self._network = module
        self._memory = memory
        self._parked: _Parked | None = None

    def park(self) -> Moved:
        """As `Parkable.park`; nothing moves where the weights lie in host memory anyway."""
        memory = self._memory
        if not memory.movable or self._parked is not None:
            return Moved()
        places, total = _places(storages(self._network, memory.device))
        begun = time.perf_counter()
        area = anonymous_memory(total)
        pinned = bool(total) and memory.lock(area)
        parked = _Parked(area, pinned, places)
        try:
            for storage, start, size in places:
                _bytes(parked, start, size).copy_(_flat(storage, memory.device), non_blocking=True)
            memory.synchronise()
        except BaseException:
            self._free(parked)
            raise
        for storage, _, _ in places:
            storage.resize_(0)
        self._parked = parked
        memory.release()
        return Moved(_sum(parked), time.perf_counter() - begun, pinned, memory.used_bytes())

    def wake(self) -> Moved:
        """As `Parkable.wake`; the host memory is free afterwards."""
        memory, parked = self._memory, self._parked
        if parked is None:
            return Moved()
        begun = time.perf_counter()
        try:
            for storage, start, size in parked.places:
                memory.refill(storage, size)
                _flat(storage, memory.device).copy_(_bytes(parked, start, size), non_blocking=True)
            memory.synchronise()
        except BaseException:
            for storage, _, _ in parked.places:
                storage.resize_(0)
            memory.release()
            raise
        seconds = time.perf_counter() - begun
        self._parked = None
        self._free(parked)
        return Moved(_sum(parked), seconds, parked.pinned, memory.used_bytes())

    def discard(self) -> None:
        """As `Parkable.discard`."""
        parked, self._parked = self._parked, None
        if parked is not None:
            self._free(parked)

    def _free(self, parked: _Parked) -> None:
        if parked.pinned:
            self._memory.unlock(parked.area)
        parked.area = memoryview(b"")


def _places(found: list[torch.UntypedStorage]) -> tuple[list[tuple[torch.UntypedStorage, int, int]], int]:
    """Each storage's place in one area, and the area's size in bytes."""
    places, at = [], 0
    for storage in found:
        if not storage.resizable():
            raise Unsupported(
                "a tensor of this model lies in memory that is not the framework's own: it cannot be moved"
            )
        places.append((storage, at, storage.nbytes()))
        at += -(-storage.nbytes() // _ALIGNED_BYTES) * _ALIGNED_BYTES
    return places, at


def _sum(parked: _Parked) -> int:
    return sum(size for _, _, size in parked.places)


def _flat(storage: torch.UntypedStorage, device: torch.device) -> torch.Tensor:
    """A storage's bytes as a tensor."""
    return torch.empty(0, dtype=torch.uint8, device=device).set_(storage)


def _bytes(parked: _Parked, start: int, size: int) -> torch.Tensor:
    return torch.frombuffer(parked.area, dtype=torch.uint8, count=size, offset=start)
