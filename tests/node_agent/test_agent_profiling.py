"""Profile jobs on the agent: inputs from signatures, real workers on real cores, refusals, ends."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from worker_support import response_arrays, spawn, writable_for_coverage, zygote

from isolation.interference.rounds import QUICK
from isolation.sandbox import SandboxPolicy
from node_agent.artifacts import Artifacts
from node_agent.profiling import Profiler, cores_busy
from node_agent.profiling_inputs import make_request
from node_agent.work import Batch, WorkItem
from node_agent.worker.probe import BUSY, PERIOD, UNITS
from node_agent.zygote.client import ZygoteClient
from partywall.client.operations import infer_request
from partywall.domain.fleet import Device, DeviceKind, Partition
from partywall.domain.models import Signature, TensorSpec
from partywall.domain.profiles import device_type
from partywall.errors import InvalidInput, Unsupported
from partywall.v1 import agent_link_pb2 as link
from partywall.v1 import fleet_pb2, models_pb2, worker_pb2
from partywall.v1 import profiles_pb2 as pb
from partywall.wire.inference import ModelInferRequest

CORES = tuple(sorted(os.sched_getaffinity(0)))[:2]
DEVICE = Device("cpu", DeviceKind.CPU, "Some CPU", 1 << 33, len(CORES), CORES)
BOUND_S = 60.0


def spec(name: str, datatype: str, *shape: int) -> TensorSpec:
    return TensorSpec(name, datatype, shape)


def test_inputs_fit_the_signature() -> None:
    inputs = (
        spec("text", "BYTES", -1),
        spec("ids", "INT64", -1, -1),
        spec("x", "FP16", -1, 3, 4),
        spec("m", "BOOL", -1),
    )
    made = make_request("m", 1, Signature(inputs, (), 8), 4)
    message = ModelInferRequest.FromString(made.data)
    assert [tuple(i.shape) for i in message.inputs] == [(4,), (4, 32), (4, 3, 4), (4,)]
    assert made.input_bytes == sum(map(len, message.raw_input_contents))
    ids = np.frombuffer(message.raw_input_contents[1], np.int64)
    assert (ids > 0).all()
    assert make_request("m", 1, Signature(inputs, (), 8), 4).data == made.data


def test_without_a_batch_dimension_shapes_stand_as_they_are() -> None:
    made = make_request("m", 1, Signature((spec("x", "UINT8", 5, -1),), (), 0), 1)
    assert tuple(ModelInferRequest.FromString(made.data).inputs[0].shape) == (5, 32)
    assert ModelInferRequest.FromString(make_request("m", 1, Signature(open=True), 2).data).inputs[0].shape[0] == 2


def test_a_type_that_nothing_is_made_of_is_refused() -> None:
    with pytest.raises(Unsupported, match="BF16"):
        make_request("m", 1, Signature((spec("x", "BF16", 2),)), 1)


def job(name: str = "j1", *, anyway: bool = True, **fields: Any) -> link.ProfileJob:
    settings = pb.ProfileSettings(quick=True, anyway=anyway)
    return link.ProfileJob(
        id=name,
        spec=link.PlacementSpec(
            tenant_id="t",
            model="m",
            version=1,
            manifest=models_pb2.Manifest(engine="identity"),
            partition=fleet_pb2.Partition(id="p", kind=fleet_pb2.PARTITION_KIND_CPUSET, device_id="cpu"),
        ),
        settings=fields.pop("settings", settings),
        **fields,
    )


class Node:
    """A profiler over a real zygote; what it tells is kept."""

    def __init__(self, client: ZygoteClient, folder: Path, device: Device = DEVICE, busy: str = "") -> None:
        self.told: list[link.ProfileProgress] = []
        self.news = asyncio.Event()
        self.client = client
        self.busy = busy
        artifacts = Artifacts(folder, None, self._fetch)
        self.profiler = Profiler([device], self._spawn, artifacts, self._tell, self._busy)

    async def until_told(self) -> link.ProfileProgress:
        """The first word of a job."""
        async with asyncio.timeout(BOUND_S):
            while not self.told:
                self.news.clear()
                await self.news.wait()
        return self.told[0]

    async def until_ended(self) -> link.ProfileProgress:
        async with asyncio.timeout(BOUND_S):
            while not self.told or not (self.told[-1].record.HasField("profile") or self.told[-1].HasField("error")):
                self.news.clear()
                await self.news.wait()
        return self.told[-1]

    async def _spawn(self, worker_id: str, partition: Partition) -> Any:
        policy = SandboxPolicy(write_paths=writable_for_coverage())
        return await self.client.spawn(worker_id, partition, sandbox=policy)

    async def _busy(self, device: Device) -> str:
        return self.busy

    def _tell(self, progress: link.ProfileProgress) -> None:
        self.told.append(progress)
        self.news.set()

    def _fetch(self, artifact_id: str, file: str, offset: int) -> Any:
        raise AssertionError("nothing to fetch")


async def test_a_job_measures_and_resumes(tmp_path: Path) -> None:
    async with zygote() as client:
        node = Node(client, tmp_path)
        node.profiler.start(job())
        last = await node.until_ended()
        assert not last.HasField("error"), last.error
        assert (last.done, last.total) == (len(node.told), len(node.told))
        assert last.record.device_type == device_type(DEVICE)
        assert last.record.profile.solo[0].latency_ms > 0
        assert bool(last.record.profile.sensitivity) == (len(CORES) > 1)
        # All runs are there already: only the version is loaded again.
        earlier = pb.ProfileRecord()
        earlier.CopyFrom(last.record)
        earlier.ClearField("profile")
        before = len(node.told)
        node.profiler.start(job("j2", earlier=earlier))
        node.told.clear()
        again = await node.until_ended()
        assert len(node.told) == before
        assert list(again.record.runs) == list(last.record.runs)
        # What no run holds is found again.
        assert again.record.profile.input_bytes == last.record.profile.input_bytes > 0
        assert again.record.profile.output_bytes == last.record.profile.output_bytes > 0
        await node.profiler.close()


async def test_refusals_end_a_job(tmp_path: Path) -> None:
    async with zygote() as client:
        node = Node(client, tmp_path, busy="its cores are 90% in use")
        node.profiler.start(job(anyway=False))
        assert "90%" in (await node.until_ended()).error.message
        node.told.clear()
        elsewhere = job()
        elsewhere.spec.partition.device_id = "gpu-7"
        node.profiler.start(elsewhere)
        assert "gpu-7" in (await node.until_ended()).error.message
        node.told.clear()
        missing = job()
        missing.spec.manifest.engine = "nothing"
        node.profiler.start(missing)
        assert "nothing" in (await node.until_ended()).error.message


async def test_one_job_at_a_time_and_a_cancelled_one_leaves_no_worker(tmp_path: Path) -> None:
    async with zygote() as client:
        node = Node(client, tmp_path)
        node.profiler.start(job())
        node.profiler.start(job("j2"))
        assert "another profile" in node.told[0].error.message
        node.told.clear()
        assert (await node.until_told()).id == "j1"
        assert client.workers, "it measures"
        node.profiler.cancel("j1")
        await node.profiler.close()
        assert not client.workers
        assert not any(p.HasField("error") for p in node.told)
        node.told.clear()
        node.profiler.start(job("j3"))
        # That a job comes to its end is another test's.
        first = await node.until_told()
        assert first.id == "j3"
        assert not first.HasField("error"), first.error
        await node.profiler.close()
        assert not client.workers


async def test_a_probe_is_a_worker_that_counts(tmp_path: Path) -> None:
    options = {"resource": "llc", "level": "0.5", "llc_bytes": str(1 << 20)}
    manifest = models_pb2.Manifest(engine="probe", options=options)
    async with zygote() as client:
        worker = await spawn(client)
        await worker.load(worker_pb2.LoadReplica(handle=1, model="probe", version=1, manifest=manifest))
        request = infer_request("probe", {PERIOD: np.array([0.05])}).SerializeToString()
        done = await worker.submit(Batch(1, (WorkItem(1, request),), repeat=2))
        found = response_arrays(done.results[0].response)
        assert found[UNITS][0] >= 1
        assert found[BUSY][0] > 0
        assert done.service_us >= 50_000, "both repeats are in the time"
        bad = models_pb2.Manifest(engine="probe", options={"resource": "mind"})
        with pytest.raises(InvalidInput, match="resource"):
            await worker.load(worker_pb2.LoadReplica(handle=2, model="probe", version=1, manifest=bad))
        await worker.stop(5.0)


async def test_busy_cores_are_seen() -> None:
    gpu = Device("g", DeviceKind.GPU, "Some GPU", 1, 1)
    assert await cores_busy(gpu) == ""
    assert device_type(gpu) == "Some GPU"
    assert QUICK.rounds >= 3
