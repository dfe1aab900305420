"""Weights that stay in a worker: out of service, back without the files, gone when they are unloaded."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save
from worker_support import infer_request, response_arrays, seal, spawn, zygote

from node_agent.work import Batch, WorkItem
from node_agent.worker.modules import register
from node_agent.workers import WorkerHandle
from partywall.domain.fleet import Partition, PartitionKind
from partywall.errors import NotFound, NotReady

ARCHITECTURES = str(Path(__file__).parents[2] / "examples" / "architectures.py")
X = np.arange(4, dtype=np.uint8).reshape(1, 4)


def empty(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


async def answer(worker: WorkerHandle) -> object:
    done = await asyncio.wait_for(worker.submit(Batch(1, [WorkItem(0, infer_request({"x": X}))])), 20)
    (result,) = done.results
    return result.error or response_arrays(result.response)["x"].tolist()


async def test_a_parked_replica_comes_back_without_its_files(tmp_path: Path) -> None:
    async with zygote() as client:
        worker = await spawn(client, tmp_path)
        request = seal(tmp_path, {"note.txt": b"hello"})
        first = await worker.load(request)
        await worker.park(1)
        assert isinstance(await answer(worker), NotReady)
        empty(tmp_path)
        again = await worker.load(request)
        assert (again.memory_bytes, again.signature) == (first.memory_bytes, first.signature)
        assert await answer(worker) == X.tolist()


async def test_unloading_frees_what_was_parked(tmp_path: Path) -> None:
    async with zygote() as client:
        worker = await spawn(client, tmp_path)
        request = seal(tmp_path, {"note.txt": b"hello"})
        await worker.load(request)
        await worker.park(1)
        await worker.unload(1)
        empty(tmp_path)
        with pytest.raises(NotFound):
            await worker.load(request)


async def test_parking_what_is_not_there_does_nothing(tmp_path: Path) -> None:
    async with zygote() as client:
        worker = await spawn(client, tmp_path)
        nothing = await worker.park(7)
        assert (nothing.kept, nothing.reason) == (False, "nothing is loaded under its handle")
        await worker.load(seal(tmp_path, {}))
        assert await answer(worker) == X.tolist()


async def test_behind_a_simulated_gpu_weights_leave_its_memory_and_come_back(tmp_path: Path) -> None:
    # A worker that computes on the CPU inside a GPU's partition: its device is simulated, and ends at the cap.
    share = Partition("p1", PartitionKind.MPS, "GPU-1", share_percent=25, memory_bytes=1 << 30)
    torch.manual_seed(1)
    weights = save(register([ARCHITECTURES])["mlp"].build({}).state_dict())
    async with zygote() as client:
        worker = await spawn(client, tmp_path, partition=share, modules=(ARCHITECTURES,))
        request = seal(tmp_path, {"model.safetensors": weights}, "module", {"architecture": "mlp"})
        first = await worker.load(request)
        x = {"x": np.ones((2, 64), np.float32)}
        before = await outputs(worker, x)
        parked = await worker.park(1)
        assert (parked.kept, parked.pinned, parked.reason) == (True, True, "")
        assert parked.moved_bytes == parked.host_bytes == first.memory_bytes
        assert parked.device_bytes == 0
        empty(tmp_path)
        woken = await worker.load(request)
        assert woken.woken_bytes == first.memory_bytes
        assert woken.wake_seconds > 0
        assert await outputs(worker, x) == before


async def outputs(worker: WorkerHandle, inputs: dict[str, Any]) -> object:
    done = await asyncio.wait_for(worker.submit(Batch(1, [WorkItem(0, infer_request(inputs))])), 60)
    (result,) = done.results
    assert result.error is None
    return {name: array.tolist() for name, array in response_arrays(result.response).items()}
