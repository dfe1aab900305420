"""Blob stores on a disk that is full or fails: nothing half done stays, and the two are told apart."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from blob_support import ARTIFACT, FILES, UPLOAD, WEIGHTS, everything_under, upload

from isolation.vault.blobs import BlobStore
from isolation.vault.local_blobs import LocalBlobStore
from isolation.vault.memory_blobs import MemoryBlobStore
from partywall.errors import PartywallError, Reason, Unavailable

FULL_AT_BYTES = 100_000


class FullDisk:
    """Writes to a real file until the room is used up: the last write is short, the next one fails, as on a disk."""

    def __init__(self, room_bytes: int, error: int) -> None:
        self.room_bytes, self.error = room_bytes, error

    def __call__(self, descriptor: int, data: memoryview, offset: int) -> int:
        if not self.room_bytes:
            raise OSError(self.error, os.strerror(self.error))
        count = os.pwrite(descriptor, data[: self.room_bytes], offset)
        self.room_bytes -= count
        return count


FULL_SIDES: dict[str, Callable[[Path], BlobStore]] = {
    "local, no space": lambda root: LocalBlobStore(root, write=FullDisk(FULL_AT_BYTES, errno.ENOSPC)),
    "local, disk quota": lambda root: LocalBlobStore(root, write=FullDisk(FULL_AT_BYTES, errno.EDQUOT)),
    "memory": lambda _: MemoryBlobStore(capacity_bytes=FULL_AT_BYTES),
}


async def fill(store: BlobStore, step: int) -> PartywallError:
    """Appends until the store refuses; checks that the refused append left nothing."""
    received = 0
    while received < 100 * FULL_AT_BYTES:
        try:
            received = await store.append(UPLOAD, WEIGHTS.name, received, bytes(step))
        except PartywallError as error:
            assert await store.received(UPLOAD, WEIGHTS.name) == received
            return error
    raise AssertionError("the store never filled up")


@pytest.mark.parametrize("step", [30_000, 2 * FULL_AT_BYTES])
@pytest.mark.parametrize("name", FULL_SIDES)
async def test_full_disk_leaves_nothing_half_done(tmp_path: Path, name: str, step: int) -> None:
    store = FULL_SIDES[name](tmp_path)
    error = await fill(store, step)
    assert isinstance(error, Unavailable)
    assert error.reason is Reason.STORAGE_FULL
    assert "full" in error.message
    await store.abort(UPLOAD)
    assert [p for p in everything_under(tmp_path) if p.is_file()] == []


async def test_failing_disk_is_told_apart_from_a_full_one(tmp_path: Path) -> None:
    error = await fill(LocalBlobStore(tmp_path, write=FullDisk(FULL_AT_BYTES, errno.EIO)), 30_000)
    assert isinstance(error, Unavailable)
    assert error.reason is Reason.STORE_UNAVAILABLE


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "partywall-test", str(folder)]
    if subprocess.run(mount, capture_output=True, timeout=10, check=False).returncode:
        pytest.skip("mounting a tmpfs needs root; the injected disk covers the same path")
    yield folder
    subprocess.run(["umount", str(folder)], check=True, timeout=10)


async def test_really_full_disk(small_disk: Path) -> None:
    store = LocalBlobStore(small_disk)
    error = await fill(store, 30_000)
    assert error.reason is Reason.STORAGE_FULL
    await store.abort(UPLOAD)
    await upload(store)
    await store.commit(UPLOAD, ARTIFACT, FILES)
