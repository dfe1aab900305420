"""A resize while another process of the router has a request at the old replica."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from e2e_instance import Instance, eventually
from safetensors.numpy import save_file
from test_processes import Connection, by_process

from partywall.wire import inference as oip

pytestmark = pytest.mark.e2e

LONG_S = 8.0
"""Longer than a shift with its settling takes, and than the agent would drain."""
SLEEPER = """
import time
import torch
from torch import nn
from node_agent.worker.modules import Architecture
from partywall.domain.models import TensorSpec

class Sleeper(nn.Module):
    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        time.sleep(float(x.max()))
        return x + 1

ARCHITECTURES = {
    "sleeper": Architecture(
        build=lambda options: Sleeper(),
        inputs=(TensorSpec("x", "FP32", (-1, 1)),), outputs=(TensorSpec("y", "FP32", (-1, 1)),), max_batch=1,
    )
}
"""


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Instance, str]]:
    module, source = tmp_path / "sleeper.py", tmp_path / "model"
    module.write_text(SLEEPER)
    source.mkdir()
    save_file({"unused": np.zeros(1, np.float32)}, source / "model.safetensors")
    made = Instance(tmp_path, ("--router-processes", "2", "--drain-s", "1", "--modules", str(module)))
    try:
        made.start()
        key = made.tenant("acme")
        made.push(key, "m", source, "--engine", "module", "--option", "architecture=sleeper")
        yield made, key
    finally:
        made.stop()


def ask(connection: Connection, seconds: float) -> float:
    request = oip.ModelInferRequest(model_name="m")
    request.inputs.add(name="x", datatype="FP32", shape=[1, 1])
    request.raw_input_contents.append(np.float32(seconds).tobytes())
    path, serialise, parse, _ = oip.method_codec("ModelInfer")
    call: Any = connection.channel.unary_unary(path, serialise, parse)
    answer = call(request, metadata=connection.metadata, timeout=60.0)
    return float(np.frombuffer(answer.raw_output_contents[0], np.float32)[0])


def to_the_second(instance: Instance, key: str) -> Connection:
    """A connection that the kernel gave to the process that does not lead."""
    while True:
        one, before = Connection(instance, key), by_process(instance)[1]
        try:
            ask(one, 0.0)
        except grpc.RpcError:
            one.channel.close()
            continue
        if by_process(instance)[1] > before:
            return one
        one.channel.close()


def test_the_old_replica_stays_until_the_other_process_has_its_answer(pair: tuple[Instance, str]) -> None:
    instance, key = pair
    connection = to_the_second(instance, key)
    answers: list[float] = []
    ended_s: list[float] = []

    def wait() -> None:
        answers.append(ask(connection, LONG_S))
        ended_s.append(time.monotonic())

    waiting = threading.Thread(target=wait)
    waiting.start()
    try:
        eventually(lambda: instance.replica("m")["in_flight"] >= 1)
        instance.run("partitions", "resize", "acme/m", "--share", "100", "--wait")
        gone_s = time.monotonic()
    finally:
        waiting.join(60)
        connection.channel.close()
    assert answers == [LONG_S + 1]
    assert ended_s[0] < gone_s
