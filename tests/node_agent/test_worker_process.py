"""Workers as processes: loading, batches, large payloads, memory, stopping. No frameworks in the zygote."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from worker_support import infer_request, response_arrays, seal, spawn, until, zygote

from node_agent.arena import INLINE_BYTES
from node_agent.work import Batch, WorkItem
from node_agent.workers import WorkerHandle
from partywall.errors import (
    ArtifactRefused,
    DataLoss,
    DeadlineExceeded,
    InternalError,
    InvalidInput,
    NotReady,
    Reason,
)


def tensor(size_bytes: int, seed: int = 0) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    return np.random.default_rng(seed).integers(0, 255, (1, size_bytes), np.uint8)


async def echo(worker: WorkerHandle, *sizes: int) -> None:
    arrays = [tensor(size, seed) for seed, size in enumerate(sizes)]
    items = [WorkItem(i, infer_request({"x": array}, f"id-{i}")) for i, array in enumerate(arrays)]
    done = await asyncio.wait_for(worker.submit(Batch(1, items)), 20)
    assert [r.id for r in done.results] == list(range(len(sizes)))
    for result, array in zip(done.results, arrays, strict=True):
        assert result.error is None
        assert np.array_equal(response_arrays(result.response)["x"], array)


async def test_small_and_large_payloads_come_back_whole(tmp_path: Path) -> None:
    async with zygote() as client:
        worker = await spawn(client, tmp_path)
        result = await worker.load(seal(tmp_path, {"note.txt": b"hello"}))
        assert (result.handle, result.memory_bytes, result.signature.open) == (1, 5, True)
        assert result.load_seconds > 0
        await echo(worker, 1, INLINE_BYTES - 100, INLINE_BYTES, 1 << 20, 5 << 20)
        for _ in range(30):
            await echo(worker, 3 << 20, 4 << 20)


async def test_payloads_over_the_arena_come_back_whole(tmp_path: Path) -> None:
    async with zygote(arena_bytes=1 << 20) as client:
        worker = await spawn(client, tmp_path)
        await worker.load(seal(tmp_path, {}))
        for _ in range(3):
            await echo(worker, 3 << 20, 700_000, 500_000, 100)


async def test_batches_run_in_order_while_others_wait(tmp_path: Path) -> None:
    async with zygote() as client:
        worker = await spawn(client, tmp_path)
        await worker.load(seal(tmp_path, {}))
        order: list[int] = []
        futures = []
        for i in range(40):
            future = worker.submit(Batch(1, [WorkItem(i, infer_request({"x": tensor(50_000, i)}))]))
            future.add_done_callback(lambda f: order.append(f.result().results[0].id))
            futures.append(future)
        assert worker.in_flight == 40
        done = await asyncio.wait_for(asyncio.gather(*futures), 20)
        assert order == list(range(40))
        assert worker.in_flight == 0
        assert all(d.service_us >= 0 for d in done)


async def test_a_bad_item_spoils_only_itself(tmp_path: Path) -> None:
    async with zygote() as client:
        worker = await spawn(client, tmp_path)
        await worker.load(seal(tmp_path, {}))
        good = infer_request({"x": tensor(4)})
        late_us = time.monotonic_ns() // 1000 - 1
        done = await worker.submit(Batch(1, [WorkItem(1, good), WorkItem(2, b"\xff"), WorkItem(3, good, late_us)]))
        assert [type(r.error) for r in done.results] == [type(None), InvalidInput, DeadlineExceeded]
        assert not done.results[1].response


async def test_an_unloaded_replica_is_not_ready(tmp_path: Path) -> None:
    async with zygote() as client:
        worker = await spawn(client, tmp_path)
        await worker.load(seal(tmp_path, {}))
        await worker.unload(1)
        await worker.unload(77)
        done = await worker.submit(Batch(1, [WorkItem(1, b"")]))
        assert isinstance(done.results[0].error, NotReady)


async def test_refusals_are_typed_and_the_worker_lives(tmp_path: Path) -> None:
    async with zygote() as client:
        worker = await spawn(client, tmp_path)
        with pytest.raises(InvalidInput, match="'onnx' is unknown"):
            await worker.load(seal(tmp_path, {}, engine="onnx"))
        with pytest.raises(ArtifactRefused) as refused:
            await worker.load(seal(tmp_path, {"model.pt": b"PK\x03\x04"}))
        assert refused.value.reason is Reason.UNSAFE_FORMAT
        tampered = seal(tmp_path, {"a.txt": b"a"})
        tampered.tenant_id = "somebody-else"
        with pytest.raises(DataLoss):
            await worker.load(tampered)
        request = seal(tmp_path, {"a.txt": b"a"})
        await worker.load(request)
        with pytest.raises(InternalError, match="loaded already"):
            await worker.load(seal(tmp_path, {}))
        await echo(worker, 10)


async def test_sealed_files_outside_the_policy_are_out_of_reach(tmp_path: Path) -> None:
    own, other = tmp_path / "own", tmp_path / "other"
    own.mkdir()
    other.mkdir()
    async with zygote() as client:
        worker = await spawn(client, own)
        if not worker.attested["sandbox.landlock"].startswith("abi"):
            pytest.skip("this kernel has no Landlock")
        with pytest.raises(InternalError, match="PermissionError"):
            await worker.load(seal(other, {"a.txt": b"a"}))


async def test_a_worker_that_hangs_is_killed_after_its_grace(tmp_path: Path) -> None:
    async with zygote() as client:
        worker = await spawn(client, tmp_path)
        os.kill(worker.pid, signal.SIGSTOP)
        ended = await asyncio.wait_for(worker.stop(0.05), 10)
        assert ended.code == -signal.SIGKILL


async def test_a_worker_ends_in_order_when_told(tmp_path: Path) -> None:
    async with zygote() as client:
        worker = await spawn(client, tmp_path)
        await worker.load(seal(tmp_path, {}))
        last = worker.submit(Batch(1, [WorkItem(1, infer_request({"x": tensor(9)}))]))
        ended = await worker.stop(10)
        assert ended.code == 0
        assert (await last).results[0].error is None


async def test_sigterm_ends_a_worker_in_order(tmp_path: Path) -> None:
    async with zygote() as client:
        worker = await spawn(client, tmp_path)
        os.kill(worker.pid, signal.SIGTERM)
        assert (await asyncio.wait_for(worker.closed, 10)).code == 0
        await until(lambda: not client.workers, "the worker to be forgotten")
