"""Pushing: sealed on this side, resumed after breaks, given up cleanly."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from client_fakes import FakeServer
from fakes_support import DATA_KEY, KEY

import partywall
from partywall import errors
from partywall.errors import Reason
from partywall.sealed import Context, MemorySource, SealedReader, parse_header
from partywall.v1 import models_pb2

MIB = 1 << 20


@pytest.fixture
def client(server: FakeServer) -> Iterator[partywall.Client]:
    with partywall.Client(server.address, api_key=KEY, timeout_s=10) as blocking:
        yield blocking


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    # Two full segments and a bit; 0x00 first, so that it cannot look like a known format.
    (tmp_path / "model" / "weights.dat").write_bytes(b"\x00" + os.urandom(2 * MIB + 5))
    (tmp_path / "model" / "notes.txt").write_text("hello")
    return tmp_path / "model"


def push(client: partywall.Client, folder: Path, **more: Any) -> tuple[partywall.ModelInfo, int]:
    return client.push("m", folder, engine="identity", slo_ms=50, **more)


def opened(server: FakeServer, name: str) -> bytes:
    data = bytes(server.models.files[name])
    out = bytearray(parse_header(data, name).plain_size)
    SealedReader(MemorySource(data), DATA_KEY, Context("t-1", "m", 1, name)).read_into(0, out)
    return bytes(out)


def test_what_arrives_is_sealed_and_opens_to_the_same(
    client: partywall.Client, server: FakeServer, folder: Path
) -> None:
    info, number = push(client, folder, promote=True)
    assert (number, info.live_version) == (1, 1)
    for name in ("weights.dat", "notes.txt"):
        plain = (folder / name).read_bytes()
        assert plain not in bytes(server.models.files[name])
        assert opened(server, name) == plain
    assert max(server.models.chunk_sizes) <= MIB
    assert server.models.aborted == []


def test_a_broken_upload_goes_on_where_the_server_has_it(
    client: partywall.Client, server: FakeServer, folder: Path
) -> None:
    server.models.break_after = [1, 600_000, 1_500_000]
    seen: list[int] = []
    push(client, folder, on_progress=lambda step: seen.append(step.sent_bytes))
    assert opened(server, "weights.dat") == (folder / "weights.dat").read_bytes()
    assert len([offset for offset in server.models.offsets if offset > 0]) >= 2
    assert seen


def test_breaks_without_progress_are_bounded(client: partywall.Client, server: FakeServer, folder: Path) -> None:
    server.faults.add("UploadFile", *[errors.Unavailable("gone", reason=Reason.UNREACHABLE)] * 50)
    with pytest.raises(errors.Unavailable):
        push(client, folder)
    assert server.faults.calls.count("UploadFile") == 6
    assert server.models.aborted == ["u1"]


def test_a_full_disk_is_not_tried_again(client: partywall.Client, server: FakeServer, folder: Path) -> None:
    server.faults.add("UploadFile", errors.Unavailable("no space left", reason=Reason.STORAGE_FULL))
    with pytest.raises(errors.Unavailable) as caught:
        push(client, folder)
    assert caught.value.reason is Reason.STORAGE_FULL
    assert server.models.aborted == ["u1"]
    assert server.models.models == {}


def test_a_file_that_changes_meanwhile_ends_the_push(
    client: partywall.Client, server: FakeServer, folder: Path
) -> None:
    def grow(step: partywall.PushProgress) -> None:
        if step.file == "weights.dat":
            with (folder / "weights.dat").open("ab") as file:
                file.write(b"more")

    with pytest.raises((errors.ArtifactRefused, errors.InvalidInput), match=r"weights\.dat"):
        push(client, folder, on_progress=grow)
    assert server.models.aborted == ["u1"]


def test_an_error_in_the_progress_callback_is_the_callers_own(
    client: partywall.Client, server: FakeServer, folder: Path
) -> None:
    def fail(_step: partywall.PushProgress) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        push(client, folder, on_progress=fail)
    assert server.models.models == {}
    assert server.models.aborted == ["u1"]


def test_a_refused_commit_is_given_up(client: partywall.Client, server: FakeServer, folder: Path) -> None:
    server.faults.add("CommitVersion", errors.QuotaExceeded("over", reason=Reason.MODEL_BYTES_EXCEEDED))
    with pytest.raises(errors.QuotaExceeded):
        push(client, folder)
    assert server.models.aborted == ["u1"]


def test_a_commit_whose_answer_was_lost_is_looked_up(
    client: partywall.Client, server: FakeServer, folder: Path
) -> None:
    version = models_pb2.Version(version=1)
    server.models.models["m"] = models_pb2.Model(name="m", versions=[version])
    server.faults.add("CommitVersion", errors.Unavailable("broke", reason=Reason.AGENT_LOST))
    _, number = push(client, folder)
    assert number == 1
    assert server.models.aborted == []


def test_what_a_version_may_and_may_not_is_told(client: partywall.Client, folder: Path) -> None:
    info, number = push(client, folder, side_effects=True, cold_start=True, max_batch=3)
    found = info.version(number)
    assert found is not None
    assert (found.manifest.side_effects, found.manifest.cold_start, found.manifest.max_batch) == (True, True, 3)


def test_nothing_is_sent_for_a_bad_folder(client: partywall.Client, server: FakeServer, folder: Path) -> None:
    (folder / "evil.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(errors.ArtifactRefused):
        push(client, folder)
    with pytest.raises(errors.InvalidInput, match="slo_ms"):
        client.push("m", folder, engine="identity", slo_ms=0)
    assert server.faults.calls == []


def test_wait_until_ready(client: partywall.Client, folder: Path) -> None:
    info, number = push(client, folder, wait_s=10)
    version = info.version(number)
    assert version is not None
    assert version.state.value == "ready"


def test_wait_ends_with_the_servers_reason(client: partywall.Client, server: FakeServer, folder: Path) -> None:
    server.models.states, server.models.reason = [models_pb2.VERSION_STATE_FAILED], "header lies"
    with pytest.raises(errors.NotReady, match="header lies"):
        push(client, folder, wait_s=10)


def test_wait_is_bounded(client: partywall.Client, server: FakeServer, folder: Path) -> None:
    server.models.states, server.models.reason = [models_pb2.VERSION_STATE_PENDING], "no place"
    with pytest.raises(errors.DeadlineExceeded, match="no place"):
        push(client, folder, wait_s=0.2)


async def test_the_asyncio_client_pushes_too(server: FakeServer, folder: Path) -> None:
    server.models.break_after = [1, 700_000]
    async with partywall.AsyncClient(server.address, api_key=KEY, timeout_s=10) as client:
        _, number = await client.push("m", folder, engine="identity", slo_ms=50, wait_s=10)
    assert number == 1
    assert opened(server, "weights.dat") == (folder / "weights.dat").read_bytes()
