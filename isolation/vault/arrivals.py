"""Files on their way in: appended whole or not at all, hashed as they come."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from isolation.vault.blobs import check_append
from isolation.vault.durable import FILE_MODE

_HASH_BLOCK_BYTES: Final = 1 << 20


class Arrival:
    """Running digests of one upload's files; a file that a restart interrupted has none and is hashed at the commit."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.closed = False
        self._hashed: dict[str, tuple[int, hashlib._Hash]] = {}

    def hash_in_order(self, file: str, offset: int, data: bytes | memoryview) -> None:
        """Takes the bytes into the digest if all before `offset` are in it."""
        done, digest = self._hashed.get(file, (0, None))
        if done == offset:
            digest = digest or hashlib.sha256()
            digest.update(data)
            self._hashed[file] = (done + len(data), digest)

    def digest(self, file: str, size: int) -> bytes | None:
        """SHA-256 of the file if all `size` bytes went through here."""
        done, digest = self._hashed.get(file, (0, None))
        return digest.digest() if digest is not None and done == size else None


class Arrivals:
    """The uploads in flight in this process: one writer at a time for each."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._by_upload: dict[str, Arrival] = {}

    @contextmanager
    def open(self, upload_id: str) -> Iterator[Arrival]:
        """The upload's state, for this thread alone."""
        while True:
            with self._guard:
                arrival = self._by_upload.setdefault(upload_id, Arrival())
            with arrival.lock:
                # Closed while this thread waited: its digests belong to files that are gone.
                if arrival.closed:
                    continue
                yield arrival
                return

    def close(self, upload_id: str) -> None:
        """Forgets an upload that was committed or removed."""
        with self._guard:
            arrival = self._by_upload.pop(upload_id, None)
        if arrival is not None:
            arrival.closed = True


def append_whole(path: Path, offset: int, data: memoryview, write: Callable[[int, memoryview, int], int]) -> int:
    """Writes all of `data` at the end of a file, made 0600 at the first byte; returns its new size.

    A write that fails midway is cut off again, so the file has what it had before.

    Raises:
        Conflict: `offset` is not the file's end.
        OSError: The disk answered with an error.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, FILE_MODE)
    try:
        check_append(path.name, offset, os.fstat(descriptor).st_size)
        position, view = offset, data.cast("B")
        try:
            while view:
                count = write(descriptor, view, position)
                position, view = position + count, view[count:]
        except OSError:
            os.ftruncate(descriptor, offset)
            raise
        return position
    finally:
        os.close(descriptor)
        # An empty leftover would count as a file that arrived.
        if offset == 0:
            with suppress(FileNotFoundError):
                if path.lstat().st_size == 0 and len(data):
                    path.unlink()


def file_digest(path: Path) -> bytes:
    """SHA-256 of a file, by reading it."""
    with path.open("rb") as source:
        return hashlib.file_digest(source, "sha256").digest()
