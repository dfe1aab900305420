"""Weights that leave a device and come back, over a simulated one: tensors lie on the CPU, bytes are counted."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save
from torch import nn
from worker_support import minilm_files, text_array

from isolation.engine import MemoryArtifact, Parkable
from node_agent.worker.device_memory import HostMemory, SimulatedMemory, open_memory, storages
from node_agent.worker.modules import ModuleEngine, register
from node_agent.worker.moving import MovableWeights
from node_agent.worker.transformers import TransformersEngine
from partywall.domain.fleet import DeviceKind, Partition, PartitionKind
from partywall.errors import Unsupported

EXAMPLES = "examples/architectures.py"


class Tied(nn.Module):
    """Two layers over one weight, a view of it, a buffer and a plain attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(4, 4, bias=False)
        self.two = nn.Linear(4, 4, bias=False)
        self.two.weight = self.one.weight
        self.register_buffer("scale", torch.arange(4.0))
        self.table = torch.ones(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.two(self.one(x)) * self.scale + self.table[:4]


def placed(capacity_bytes: int = 0, lockable_bytes: int | None = None) -> tuple[Tied, SimulatedMemory, MovableWeights]:
    torch.manual_seed(3)
    network = Tied().eval().requires_grad_(False)
    memory = SimulatedMemory(capacity_bytes, lockable_bytes)
    memory.place(network)
    return network, memory, MovableWeights(network, memory)


SIZE = 4 * (16 + 4 + 8)


def test_everything_leaves_and_comes_back_as_it_was() -> None:
    network, memory, weights = placed()
    x = torch.randn(2, 4)
    expected, weight = network(x), network.one.weight
    assert memory.used_bytes() == SIZE
    moved = weights.park()
    assert (moved.size_bytes, moved.pinned, moved.left_bytes) == (SIZE, True, 0)
    assert memory.used_bytes() == 0
    assert memory.locked_bytes >= SIZE
    back = weights.wake()
    assert (back.size_bytes, back.pinned, back.left_bytes) == (SIZE, True, SIZE)
    assert torch.equal(network(x), expected)
    assert network.one.weight is weight
    assert network.two.weight is weight
    assert memory.locked_bytes == 0


def test_parking_and_waking_twice_changes_nothing() -> None:
    network, memory, weights = placed()
    expected = network(torch.ones(1, 4))
    assert weights.wake().size_bytes == 0
    weights.park()
    assert weights.park().size_bytes == 0
    weights.wake()
    weights.park()
    weights.wake()
    assert torch.equal(network(torch.ones(1, 4)), expected)
    assert memory.used_bytes() == SIZE


def test_where_pages_cannot_be_locked_they_are_pageable() -> None:
    network, memory, weights = placed(lockable_bytes=10)
    expected = network(torch.ones(1, 4))
    assert not weights.park().pinned
    assert memory.locked_bytes == 0
    assert not weights.wake().pinned
    assert torch.equal(network(torch.ones(1, 4)), expected)


def test_waking_without_room_leaves_the_weights_parked() -> None:
    network, memory, weights = placed(capacity_bytes=2 * SIZE)
    expected = network(torch.ones(1, 4))
    weights.park()
    other = nn.Module()
    other.register_buffer("block", torch.zeros(2 * SIZE - 70, dtype=torch.uint8))
    memory.place(other)
    with pytest.raises(RuntimeError, match="out of memory"):
        weights.wake()
    assert memory.used_bytes() == 2 * SIZE - 70, "what came back of it is given away again"
    del other
    weights.wake()
    assert torch.equal(network(torch.ones(1, 4)), expected)


def test_no_more_is_placed_than_there_is() -> None:
    with pytest.raises(RuntimeError, match="out of memory"):
        placed(capacity_bytes=SIZE - 1)


def test_discarded_weights_hold_nothing() -> None:
    _, memory, weights = placed()
    weights.park()
    weights.discard()
    weights.discard()
    assert (memory.used_bytes(), memory.locked_bytes) == (0, 0)


def test_memory_of_others_is_not_moved_and_the_model_stays_whole() -> None:
    network, memory, weights = placed()
    network.table = torch.frombuffer(bytearray(32), dtype=torch.float32)
    expected = network(torch.ones(1, 4))
    with pytest.raises(Unsupported, match="not the framework's own"):
        weights.park()
    assert torch.equal(network(torch.ones(1, 4)), expected)
    assert memory.locked_bytes == 0


def test_nothing_moves_in_host_memory() -> None:
    network = Tied().eval()
    memory = HostMemory()
    memory.place(network)
    weights = MovableWeights(network, memory)
    assert weights.park() == weights.wake()
    assert len(storages(network, memory.device)) == 3
    assert not memory.lock(memoryview(bytearray(8)))
    assert memory.used_bytes() == 0


def test_a_network_without_tensors_parks() -> None:
    memory = SimulatedMemory()
    weights = MovableWeights(nn.Identity(), memory)
    assert weights.park().size_bytes == 0
    assert weights.wake().size_bytes == 0


def test_the_module_engine_parks() -> None:
    memory = SimulatedMemory()
    torch.manual_seed(1)
    files = MemoryArtifact({"model.safetensors": save(register([EXAMPLES])["mlp"].build({}).state_dict())})
    model = ModuleEngine([EXAMPLES], DeviceKind.GPU, lambda: memory).load(files, {"architecture": "mlp"}, 0)
    x = {"x": np.random.default_rng(1).random((3, 64), dtype=np.float32)}
    expected = model.run(x, 3)["y"]
    assert isinstance(model, Parkable)
    assert memory.used_bytes() == model.memory_bytes
    assert model.park().size_bytes == model.memory_bytes
    assert memory.used_bytes() == 0
    model.wake()
    assert np.array_equal(model.run(x, 3)["y"], expected)


def test_the_transformers_engine_parks() -> None:
    memory = SimulatedMemory()
    model = TransformersEngine(DeviceKind.GPU, lambda: memory).load(MemoryArtifact(minilm_files()), {}, 0)
    text = {"text": text_array("a wall", "two tenants and a wall between them")}
    expected = model.run(text, 2)["embedding"]
    assert isinstance(model, Parkable)
    moved = model.park()
    assert moved.size_bytes >= model.memory_bytes
    assert memory.used_bytes() == 0
    model.wake()
    assert np.array_equal(model.run(text, 2)["embedding"], expected)


def test_the_memory_is_the_partitions() -> None:
    share = Partition("p", PartitionKind.MPS, "GPU-1", memory_bytes=5)
    behind_simulated = open_memory(DeviceKind.CPU, share)
    assert isinstance(behind_simulated, SimulatedMemory)
    assert behind_simulated.capacity_bytes == 5
    assert isinstance(open_memory(DeviceKind.CPU), HostMemory)
    if not torch.cuda.is_available():
        with pytest.raises(Unsupported, match="CUDA shows none"):
            open_memory(DeviceKind.GPU)
