"""A router that is stopped under load: what it did not answer was never executed, by the worker's own count."""

from __future__ import annotations

import os
import signal
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from e2e_instance import ARCHITECTURES, Instance, eventually
from safetensors.numpy import save_file

from benchmarks.soaking.ledger import HEAD
from partywall.wire import inference as oip
from partywall.wire.status import from_rpc_error

pytestmark = pytest.mark.e2e

LEDGER = ARCHITECTURES.parents[1] / "benchmarks" / "soaking" / "ledger.py"
CALLERS, EACH, WORDS = 8, 10_000, 4096


@pytest.fixture
def draining(tmp_path: Path) -> Iterator[tuple[Instance, str]]:
    weights = tmp_path / "ledger"
    weights.mkdir()
    save_file({"unused": np.zeros(1, np.float32)}, weights / "model.safetensors")
    instance = Instance(tmp_path, ("--drain-s", "3", "--modules", str(LEDGER)))
    try:
        instance.start()
        key = instance.tenant("acme")
        instance.push(key, "ledger", weights, "--engine", "module", "--option", "architecture=ledger")
        yield instance, key
    finally:
        instance.stop()


class Caller:
    """Calls with rows of its own numbers, on a connection of its own."""

    def __init__(self, instance: Instance, key: str) -> None:
        self.channel = grpc.insecure_channel(instance.address, [("grpc.use_local_subchannel_pool", 1)])
        self._metadata = (("authorization", f"Bearer {key}"),)

    def row(self, first: int) -> bytes:
        """The answered row to one that begins with `first`."""
        path, serialise, parse, _ = oip.method_codec("ModelInfer")
        request = oip.ModelInferRequest(model_name="ledger")
        request.inputs.add(name="x", datatype="INT64", shape=[1, WORDS])
        request.raw_input_contents.append(struct.pack("<q", first) + bytes(8 * (WORDS - 1)))
        answer = self.channel.unary_unary(path, serialise, parse)(request, metadata=self._metadata, timeout=10.0)
        return bytes(answer.raw_output_contents[0])


def executions(instance: Instance, key: str, up_to: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    caller, counts = Caller(instance, key), []
    for block in range(-(-up_to // (WORDS - HEAD))):
        row = eventually(lambda block=block: _try(caller, -1 - block))
        counts.append(np.frombuffer(row, "<i8")[HEAD:])
    caller.channel.close()
    return np.concatenate(counts)


def _try(caller: Caller, first: int) -> bytes:
    try:
        return caller.row(first)
    except grpc.RpcError:
        return b""


def test_what_a_draining_router_does_not_answer_was_never_executed(draining: tuple[Instance, str]) -> None:
    instance, key = draining
    ends: dict[int, str] = {}

    def call(first: int) -> None:
        caller = Caller(instance, key)
        for number in range(first, first + EACH):
            try:
                caller.row(number)
                ends[number] = "OK"
            except grpc.RpcError as failure:
                ends[number] = from_rpc_error(failure).reason.value
            # On through the refusals and the closing port, up to the closed one.
            if ends[number] == "UNREACHABLE":
                break
        caller.channel.close()

    threads = [threading.Thread(target=call, args=(1 + index * EACH,)) for index in range(CALLERS)]
    for thread in threads:
        thread.start()
    eventually(lambda: len(ends) > 100)
    # Only the router: the worker with its ledger lives on, and the supervisor starts a new router.
    os.kill(instance.ready["router_pid"], signal.SIGTERM)
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    counts = executions(instance, key, CALLERS * EACH + 1)
    answered = {number for number, end in ends.items() if end == "OK"}
    assert len(answered) < len(ends)
    assert set(ends.values()) <= {"OK", "DRAINING", "CANCELLED", "UNREACHABLE", "NO_REPLICA"}, set(ends.values())
    assert {int(counts[number]) for number in answered} == {1}
    unanswered = {number: end for number, end in ends.items() if number not in answered and counts[number]}
    assert not unanswered, f"executed and not answered: {unanswered}"
    print({end: list(ends.values()).count(end) for end in sorted(set(ends.values()))})
