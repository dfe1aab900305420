"""The contract of `DeviceMemory`, for every side: simulated, CUDA over a stand-in for its calls, and CUDA itself."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from node_agent.worker.device_memory import CudaMemory, DeviceMemory, SimulatedMemory, storages
from node_agent.worker.moving import MovableWeights

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool)


class Cuda:
    """What of `torch.cuda` moving asks for. `refuses`: page-locking fails, by an answer or by an error."""

    def __init__(self, refuses: int | Exception = 0) -> None:
        self.refuses = refuses
        self.registered: dict[int, int] = {}
        self.calls: list[str] = []

    def cudart(self) -> Cuda:
        return self

    def cudaHostRegister(self, address: int, size: int, flags: int) -> int:  # noqa: N802
        if isinstance(self.refuses, Exception):
            raise self.refuses
        if not self.refuses:
            self.registered[address] = size
        return self.refuses

    def cudaHostUnregister(self, address: int) -> int:  # noqa: N802
        del self.registered[address]
        return 0

    def synchronize(self, device: torch.device) -> None:
        self.calls.append("synchronize")

    def empty_cache(self) -> None:
        self.calls.append("empty_cache")

    def memory_reserved(self, device: torch.device) -> int:
        return 2 << 20


def stand_in() -> DeviceMemory:
    return CudaMemory(Cuda(), torch.device("cpu"))


SIDES = [
    pytest.param(SimulatedMemory, id="simulated"),
    pytest.param(stand_in, id="stand-in"),
    *([pytest.param(CudaMemory, marks=pytest.mark.gpu, id="cuda")] if torch.cuda.is_available() else []),
]


def network(parts: list[tuple[list[int], torch.dtype]], seed: int = 5) -> nn.Module:
    torch.manual_seed(seed)
    made = nn.Module()
    for number, (shape, dtype) in enumerate(parts):
        # Integers first: every type holds them.
        made.register_buffer(f"part{number}", torch.randint(0, 2, shape).to(dtype))
    return made


@pytest.mark.parametrize("side", SIDES)
@given(parts=st.lists(st.tuples(st.lists(st.integers(0, 9), max_size=3), st.sampled_from(DTYPES)), max_size=6))
def test_whatever_is_parked_comes_back_as_it_was(
    side: Callable[[], DeviceMemory], parts: list[tuple[list[int], torch.dtype]]
) -> None:
    memory, module = side(), network(parts)
    memory.place(module)
    before = [tensor.clone() for tensor in module.buffers()]
    weights = MovableWeights(module, memory)
    moved = weights.park()
    assert moved.size_bytes == sum(one.numel() * one.element_size() for one in before)
    assert moved.pinned == bool(moved.size_bytes)
    assert storages(module, memory.device) == []
    assert weights.wake().size_bytes == moved.size_bytes
    after = list(module.buffers())
    assert [tensor.shape for tensor in after] == [tensor.shape for tensor in before]
    assert all(torch.equal(one, other) for one, other in zip(after, before, strict=True))
    assert all(tensor.device == memory.device for tensor in after)


@pytest.mark.parametrize("side", SIDES)
def test_what_is_locked_is_unlocked(side: Callable[[], DeviceMemory]) -> None:
    memory, area = side(), memoryview(bytearray(1 << 20))
    for _ in range(2):
        assert memory.lock(area)
        memory.unlock(area)


@pytest.mark.parametrize(("refuses", "pinned"), [(0, True), (2, False), (RuntimeError("no"), False)])
def test_where_cuda_locks_no_pages_they_are_pageable(refuses: int | Exception, pinned: bool) -> None:
    cuda = Cuda(refuses)
    memory, module = CudaMemory(cuda, torch.device("cpu")), network([([64], torch.float32)])
    memory.place(module)
    weights = MovableWeights(module, memory)
    moved = weights.park()
    assert (moved.pinned, moved.left_bytes) == (pinned, 2 << 20)
    assert [size >= 256 for size in cuda.registered.values()] == ([True] if pinned else [])
    assert cuda.calls == ["synchronize", "empty_cache"]
    assert weights.wake().size_bytes == 256
    assert cuda.registered == {}
