"""Weights that stay in a worker: out of service, back without the files, gone when they are unloaded."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
from worker_support import infer_request, response_arrays, seal, spawn, zygote

from node_agent.work import Batch, WorkItem
from node_agent.workers import WorkerHandle
from partywall.errors import NotFound, NotReady

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
        await worker.park(7)
        await worker.load(seal(tmp_path, {}))
        assert await answer(worker) == X.tolist()
