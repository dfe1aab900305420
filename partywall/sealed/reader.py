"""The reading side: random access by segment, decrypting into memory that the caller made.

Allocation costs more than AES here (a fresh 1 MiB buffer: 0.7 GB/s; `decrypt_into` a reused one: 7 to 9 GB/s on one
core), so a segment goes from the source into a reused staging buffer and from there, decrypted, to its place.
"""

from __future__ import annotations

import hmac
import itertools
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeAlias

from cryptography.exceptions import InvalidTag

from partywall.errors import DataLoss, InvalidInput
from partywall.sealed.format import (
    HEADER_BYTES,
    SEGMENT_BYTES,
    TAG_BYTES,
    Context,
    header_aad,
    parse_header,
    sealed_size,
    segment_count,
    segment_nonce,
    segment_offset,
    segment_plain_bytes,
)
from partywall.sealed.keys import Key, check_commitment, segment_cipher, wipe
from partywall.sealed.source import Source

Buffer: TypeAlias = bytearray | memoryview
_MAX_DEFAULT_THREADS: Final = 4


class SealedReader:
    """Opens one sealed file. Reads may come from several threads; each call has its own staging buffer.

    Args:
        source: Not closed by the reader.
        key: The artifact's data key, 32 bytes; not kept, the caller may wipe it at once.
        context: What the file must belong to, as told by the router, never by the file.
        expected_header_sha256: From the router's record of the version. It catches what the context cannot: another
            upload of the same version put in this one's place (docs/security.md, rollback).

    Raises:
        DataLoss: Not a sealed file, damaged, cut off, or sealed with another key or for another context.
        InvalidInput: The key is not 32 bytes.
        Unavailable: The source could not be read.
    """

    def __init__(self, source: Source, key: Key, context: Context, expected_header_sha256: bytes | None = None) -> None:
        self._source = source
        self._name = context.file_name
        packed = self._read_header()
        self._aad = header_aad(packed)
        if expected_header_sha256 is not None and not hmac.compare_digest(self._aad, expected_header_sha256):
            raise self._broken("header", "it is not the file that was committed for this version")
        self.header = parse_header(packed, self._name)
        self.plain_size = self.header.plain_size
        self.segments = segment_count(self.plain_size)
        expected = sealed_size(self.plain_size)
        if source.size != expected:
            raise self._broken("header", f"it has {source.size} bytes, its header says {expected}")
        check_commitment(self.header.commitment, key, self.header.salt, context, self.plain_size)
        self._cipher = segment_cipher(key, self.header.salt, context, self.plain_size)

    def read_into(self, offset: int, buffer: Buffer) -> int:
        """Plaintext from `offset` into `buffer`; returns bytes written, fewer than asked only at the end.

        Raises:
            DataLoss: A segment does not authenticate; nothing of it is in `buffer`.
            InvalidInput: `offset` is negative.
        """
        if offset < 0:
            raise InvalidInput(f"offset must not be negative, got {offset}", fields={"field": "offset"})
        target = _bytes_of(buffer)
        end = min(offset + len(target), self.plain_size)
        staging = _staging()
        position = offset
        while position < end:
            position += self._read_part(position, target[position - offset : end - offset], staging)
        return max(0, end - offset)

    def open_into(self, buffer: Buffer, threads: int | None = None) -> int:
        """The whole file into the first `plain_size` bytes of `buffer`; returns `plain_size`.

        Every segment is authenticated, the empty one of an empty file too. Cipher and disk run without the
        interpreter's lock: on two cores two threads open as fast as a plain read (benchmarks/sealed.py).

        Args:
            buffer: Writable, at least `plain_size` bytes.
            threads: None: one per core that the caller may run on, four at the most.

        Raises:
            DataLoss: A segment does not authenticate: it is zeros in `buffer`; other segments are authentic or
                untouched.
            InvalidInput: The buffer is too small, or `threads` is below 1.
        """
        target = _bytes_of(buffer)
        if len(target) < self.plain_size:
            raise InvalidInput(
                f"buffer has {len(target)} bytes, file {self._name!r} needs {self.plain_size}",
                fields={"field": "buffer"},
            )
        threads = default_threads() if threads is None else threads
        if threads < 1:
            raise InvalidInput(f"threads must be at least 1, got {threads}", fields={"field": "threads"})
        threads = min(threads, self.segments)
        if threads == 1:
            self._open_run(target, iter(range(self.segments)))
        else:
            self._open_parallel(target, threads)
        return self.plain_size

    def _open_parallel(self, target: memoryview, threads: int) -> None:
        shared = _SharedRange(self.segments)

        def run() -> None:
            try:
                self._open_run(target, shared)
            except BaseException:
                shared.stop()
                raise

        with ThreadPoolExecutor(threads, thread_name_prefix="sealed-open") as pool:
            runs = [pool.submit(run) for _ in range(threads)]
        for done in runs:
            done.result()

    def _open_run(self, target: memoryview, indices: Iterator[int]) -> None:
        staging = _staging()
        for index in indices:
            start = index * SEGMENT_BYTES
            self._open_segment(index, target[start : start + segment_plain_bytes(index, self.plain_size)], staging)

    def _read_part(self, position: int, target: memoryview, staging: memoryview) -> int:
        """One segment's share of a read: straight into the target where the segment is wanted whole."""
        index, skip = divmod(position, SEGMENT_BYTES)
        length = segment_plain_bytes(index, self.plain_size)
        count = min(length - skip, len(target))
        if count == length:
            self._open_segment(index, target[:count], staging)
            return count
        scratch = memoryview(bytearray(length))
        try:
            self._open_segment(index, scratch, staging)
            target[:count] = scratch[skip : skip + count]
        finally:
            wipe(scratch)
        return count

    def _open_segment(self, index: int, target: memoryview, staging: memoryview) -> None:
        sealed = staging[: len(target) + TAG_BYTES]
        self._fill(segment_offset(index), sealed, str(index))
        try:
            self._cipher.decrypt_into(segment_nonce(index, index == self.segments - 1), sealed, self._aad, target)
        except InvalidTag:
            # The cipher has written unauthenticated bytes by the time it sees the tag.
            wipe(target)
            raise self._broken(str(index), f"segment {index} of {self.segments} does not authenticate") from None

    def _read_header(self) -> bytes:
        found = bytearray(min(HEADER_BYTES, self._source.size))
        self._fill(0, memoryview(found), "header")
        return bytes(found)

    def _fill(self, offset: int, view: memoryview, segment: str) -> None:
        got = 0
        while got < len(view):
            count = self._source.pread_into(offset + got, view[got:])
            if count <= 0:
                raise self._broken(segment, f"it ends at byte {offset + got}")
            got += count

    def _broken(self, segment: str, problem: str) -> DataLoss:
        return DataLoss(
            f"file {self._name!r} cannot be opened: {problem}; push the version again",
            fields={"file": self._name, "segment": segment},
        )


class _SharedRange:
    """Hands out 0, 1, 2, ... to several threads, until stopped."""

    def __init__(self, stop: int) -> None:
        self._stop = stop
        self._next = itertools.count()
        self._lock = threading.Lock()

    def __iter__(self) -> _SharedRange:
        return self

    def __next__(self) -> int:
        with self._lock:
            index = next(self._next)
            if index >= self._stop:
                raise StopIteration
            return index

    def stop(self) -> None:
        with self._lock:
            self._stop = 0


def default_threads() -> int:
    """One per core that the caller may run on, up to four: beyond that memory is the limit."""
    return min(_MAX_DEFAULT_THREADS, len(os.sched_getaffinity(0)))


def _staging() -> memoryview:
    return memoryview(bytearray(SEGMENT_BYTES + TAG_BYTES))


def _bytes_of(buffer: Buffer) -> memoryview:
    view = memoryview(buffer).cast("B")
    if view.readonly:
        raise InvalidInput("buffer must be writable", fields={"field": "buffer"})
    return view
