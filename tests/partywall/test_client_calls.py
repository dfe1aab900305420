"""Both clients against an in-process server: the same cases for the blocking one and the one for asyncio."""

from __future__ import annotations

import asyncio
import inspect
import socket
import time
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
from client_fakes import FakeServer
from fakes_support import KEY

import partywall
from partywall import errors
from partywall.errors import Reason


class Either:
    """Awaits what needs it."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        async def call(*arguments: Any, **keywords: Any) -> Any:
            answer = getattr(self._client, name)(*arguments, **keywords)
            return await answer if inspect.isawaitable(answer) else answer

        return call


@pytest.fixture(params=["sync", "aio"])
async def client(request: pytest.FixtureRequest, server: FakeServer) -> AsyncIterator[Either]:
    if request.param == "sync":
        with partywall.Client(server.address, api_key=KEY, timeout_s=10) as blocking:
            yield Either(blocking)
    else:
        async with partywall.AsyncClient(server.address, api_key=KEY, timeout_s=10) as asynchronous:
            yield Either(asynchronous)


async def test_infer_numpy_in_numpy_out(client: Either, server: FakeServer) -> None:
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    result = await client.infer("echo", {"x": x, "text": ["a", "b"]}, version="1", request_id="r-1")
    np.testing.assert_array_equal(result["x"], x)
    assert list(result["text"]) == [b"a", b"b"]
    assert (result.model, result.version, result.id) == ("echo", "1", "r-1")
    assert set(result) == {"x", "text"}
    assert "float32[3, 2]" in repr(result)
    assert server.faults.metadata["authorization"] == f"Bearer {KEY}"


async def test_only_the_named_outputs(client: Either) -> None:
    result = await client.infer("echo", {"a": np.zeros(1), "b": np.zeros(1)}, outputs=["b"])
    assert list(result) == ["b"]


async def test_ready_metadata_models(client: Either, server: FakeServer) -> None:
    assert await client.ready()
    assert await client.ready("echo")
    assert not await client.ready("other")
    metadata = await client.metadata("echo")
    assert metadata.inputs[0].shape == (-1, 2)
    assert await client.models() == ()


async def test_a_refusal_is_typed(client: Either, server: FakeServer) -> None:
    refusal = errors.NotFound("model 'x' does not exist", reason=Reason.MODEL_NOT_FOUND, fields={"model": "x"})
    server.faults.add("ModelInfer", refusal)
    with pytest.raises(errors.NotFound) as caught:
        await client.infer("x", {"x": np.zeros(1)})
    assert (caught.value.reason, caught.value.fields, caught.value.retryable) == (
        Reason.MODEL_NOT_FOUND,
        {"model": "x"},
        False,
    )


async def test_retried_when_nothing_was_executed(client: Either, server: FakeServer) -> None:
    server.faults.add(
        "ModelInfer",
        errors.Unavailable("draining", reason=Reason.DRAINING),
        errors.Overloaded("full", retry_after_s=0.01),
    )
    await client.infer("echo", {"x": np.zeros(1)})
    assert server.faults.calls == ["ModelInfer"] * 3


async def test_not_retried_when_it_may_have_been_executed(client: Either, server: FakeServer) -> None:
    server.faults.add("ModelInfer", errors.Unavailable("the worker died", reason=Reason.WORKER_DIED))
    with pytest.raises(errors.Unavailable) as caught:
        await client.infer("echo", {"x": np.zeros(1)})
    assert caught.value.retryable
    assert server.faults.calls == ["ModelInfer"]


async def test_a_hint_beyond_the_deadline_is_not_waited_for(client: Either, server: FakeServer) -> None:
    server.faults.add("ModelInfer", errors.QuotaExceeded("slow down", retry_after_s=60.0))
    started = time.monotonic()
    with pytest.raises(errors.QuotaExceeded) as caught:
        await client.infer("echo", {"x": np.zeros(1)}, deadline_s=5)
    assert caught.value.retry_after_s == 60.0
    assert time.monotonic() - started < 5


async def test_a_message_over_the_limit_says_so(client: Either) -> None:
    with pytest.raises(errors.InvalidInput, match="size limit") as caught:
        await client.infer("echo", {"x": np.zeros(1 << 20)})
    assert caught.value.reason is Reason.MESSAGE_TOO_LARGE


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"model": "", "inputs": {"x": np.zeros(1)}}, "model"),
        ({"model": "echo", "inputs": {}}, "inputs"),
        ({"model": "echo", "inputs": {"x": np.zeros(1)}, "deadline_s": 0}, "deadline_s"),
        ({"model": "echo", "inputs": {"x": np.zeros(1)}, "deadline_s": 1e12}, "deadline_s"),
    ],
)
async def test_bad_arguments_are_named_before_anything_is_sent(
    client: Either, server: FakeServer, arguments: dict[str, Any], field: str
) -> None:
    with pytest.raises(errors.InvalidInput) as caught:
        await client.infer(**arguments)
    assert caught.value.fields["field"] == field
    assert server.faults.calls == []


def test_nobody_there_is_unavailable_and_was_not_executed() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with partywall.Client(f"127.0.0.1:{port}", timeout_s=5) as client, pytest.raises(errors.Unavailable) as caught:
        client.infer("echo", {"x": np.zeros(1)})
    assert caught.value.fields["executed"] == "no"
    assert f"127.0.0.1:{port}" in caught.value.message


def test_a_server_that_does_not_answer_ends_at_the_deadline() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with partywall.Client(address) as client, pytest.raises((errors.DeadlineExceeded, errors.Unavailable)):
            client.infer("echo", {"x": np.zeros(1)}, deadline_s=0.3)


async def test_cancelling_an_asyncio_call_cancels_it(server: FakeServer) -> None:
    async with partywall.AsyncClient(server.address, api_key=KEY) as client:
        server.faults.add("ModelInfer", errors.QuotaExceeded("later", retry_after_s=20.0))
        task = asyncio.create_task(client.infer("echo", {"x": np.zeros(1)}))
        async with asyncio.timeout(10):
            while not server.faults.calls:
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task


def test_a_wrong_key(server: FakeServer) -> None:
    with partywall.Client(server.address, api_key="wrong") as client, pytest.raises(errors.Unauthenticated):
        client.models()
