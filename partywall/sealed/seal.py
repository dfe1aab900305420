"""The sealing side: plaintext in, header and segments out, buffers reused.

Nonces and going on after a break. A segment's nonce is its index, so the same file may be sealed twice under one salt
only if it gives the same bytes. A `Sealer` therefore remembers the 16-byte tag of each segment that it has let out.
When an upload goes on at an offset, the segments before the point that was reached are sealed again from the source
and compared with the remembered tags *before* they are released: other plaintext under a used nonce never leaves the
object. The file's identity (device, inode, size, mtime) is compared too, which gives the clearer message. A salt
never outlives its `Sealer`; a new process begins a new upload with a new salt.
"""

from __future__ import annotations

import hashlib
import hmac
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from partywall.domain.models import SealedFile
from partywall.errors import ArtifactRefused, InvalidInput, NotReady, Reason
from partywall.sealed.format import (
    HEADER_BYTES,
    SALT_BYTES,
    SEGMENT_BYTES,
    TAG_BYTES,
    Context,
    Header,
    header_aad,
    parse_key_record_id,
    sealed_size,
    segment_count,
    segment_nonce,
    segment_offset,
    segment_plain_bytes,
)
from partywall.sealed.keys import Key, commitment, segment_cipher, wipe


class PlainSource(Protocol):
    """What is sealed: any seekable binary file."""

    def readinto(self, buffer: memoryview, /) -> int | None: ...

    def seek(self, offset: int, /) -> int: ...

    def fileno(self) -> int: ...


@dataclass(frozen=True, slots=True)
class _Identity:
    device: int
    inode: int
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, source: PlainSource) -> _Identity | None:
        """None for a source in memory, which has no descriptor."""
        try:
            descriptor = source.fileno()
        except io.UnsupportedOperation:
            return None
        found = os.fstat(descriptor)
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


class Sealer:
    """Seals one file for one upload. Not thread-safe; use one per file.

    Args:
        plain_size: Bytes the source will give, exactly.
        key: The artifact's data key, 32 bytes; not kept.
        key_record_id: UUID of the stored wrapped key, for the header.

    Raises:
        InvalidInput: A field is malformed.
    """

    def __init__(self, plain_size: int, key: Key, context: Context, key_record_id: str) -> None:
        self._start(plain_size, key, context, key_record_id, os.urandom(SALT_BYTES))

    def _start(self, plain_size: int, key: Key, context: Context, key_record_id: str, salt: bytes) -> None:
        self.sealed_size = sealed_size(plain_size)
        self._plain_size = plain_size
        self._context = context
        header = Header(
            plain_size, salt, commitment(key, salt, context, plain_size), parse_key_record_id(key_record_id)
        )
        self.header = header.pack()
        self._aad = header_aad(self.header)
        self._cipher = segment_cipher(key, salt, context, plain_size)
        self._tags: list[bytes] = []
        self._digest = hashlib.sha256(self.header)
        self._identity: _Identity | None = None

    def stream(self, source: PlainSource, offset: int = 0) -> Iterator[memoryview]:
        """Sealed bytes from `offset` on: header, then segments.

        Each view is valid until the next step. The source is read from its start; a source shorter or longer than
        declared is refused before the last segment is released, so such an upload never completes.

        Raises:
            InvalidInput: `offset` was never reached by this sealer, or the source does not have `plain_size` bytes.
            ArtifactRefused: The source changed since the upload began.
        """
        first = self._first_segment(offset)
        self._check_identity(source)
        if offset < HEADER_BYTES:
            yield memoryview(self.header)[offset:]
        plain = memoryview(bytearray(SEGMENT_BYTES))
        sealed = memoryview(bytearray(SEGMENT_BYTES + TAG_BYTES))
        source.seek(first * SEGMENT_BYTES)
        try:
            for index in range(first, segment_count(self._plain_size)):
                view = self._seal_segment(index, source, plain, sealed)
                yield view[max(0, offset - segment_offset(index)) :]
        finally:
            wipe(plain)

    def sealed_file(self) -> SealedFile:
        """Sizes and digests, once the whole file has been through `stream`.

        Raises:
            NotReady: The end was not reached yet.
        """
        if len(self._tags) < segment_count(self._plain_size):
            raise NotReady(
                f"file {self._context.file_name!r} is not sealed to its end yet; go on with stream()",
                reason=Reason.WRONG_STATE,
                fields={"file": self._context.file_name},
            )
        return SealedFile(
            name=self._context.file_name,
            plain_size=self._plain_size,
            sealed_size=self.sealed_size,
            header_sha256=self._aad,
            sealed_sha256=self._digest.digest(),
        )

    def _first_segment(self, offset: int) -> int:
        reached = min(segment_offset(len(self._tags)), self.sealed_size)
        if not 0 <= offset <= reached:
            raise InvalidInput(
                f"offset {offset} of file {self._context.file_name!r} is outside what was sealed so far "
                f"(0 to {reached}); begin a new upload",
                fields={"field": "offset", "file": self._context.file_name, "reached": str(reached)},
            )
        if offset == self.sealed_size:
            return segment_count(self._plain_size)
        return max(0, offset - HEADER_BYTES) // (SEGMENT_BYTES + TAG_BYTES)

    def _seal_segment(self, index: int, source: PlainSource, plain: memoryview, sealed: memoryview) -> memoryview:
        last = index == segment_count(self._plain_size) - 1
        wanted = segment_plain_bytes(index, self._plain_size)
        self._fill(source, plain[:wanted], index)
        if last:
            self._check_end(source)
        out = sealed[: wanted + TAG_BYTES]
        self._cipher.encrypt_into(segment_nonce(index, last), plain[:wanted], self._aad, out)
        tag = bytes(out[wanted:])
        if index < len(self._tags):
            if not hmac.compare_digest(tag, self._tags[index]):
                raise self._changed()
        else:
            self._tags.append(tag)
            self._digest.update(out)
        return out

    def _fill(self, source: PlainSource, view: memoryview, index: int) -> None:
        got = 0
        while got < len(view):
            count = source.readinto(view[got:])
            if not count:
                raise self._wrong_size(f"ends after {index * SEGMENT_BYTES + got}")
            got += count

    def _check_end(self, source: PlainSource) -> None:
        if source.readinto(memoryview(bytearray(1))):
            raise self._wrong_size(f"has more than the declared {self._plain_size}")
        self._check_identity(source)

    def _check_identity(self, source: PlainSource) -> None:
        identity = _Identity.of(source)
        if self._identity is None:
            self._identity = identity
        elif identity != self._identity:
            raise self._changed()

    def _wrong_size(self, found: str) -> InvalidInput:
        name = self._context.file_name
        return InvalidInput(
            f"file {name!r} {found} bytes, {self._plain_size} were declared; push again when it is complete",
            fields={"field": "plain_size", "file": name, "declared": str(self._plain_size)},
        )

    def _changed(self) -> ArtifactRefused:
        name = self._context.file_name
        return ArtifactRefused(
            f"file {name!r} changed while it was being pushed; push again from the start", fields={"file": name}
        )


def seal_stream(
    source: PlainSource, plain_size: int, key: Key, context: Context, key_record_id: str
) -> Iterator[memoryview]:
    """Seals a file in one go: header, then segments, each view valid until the next step.

    For digests and for going on after a break use `Sealer`.

    Raises:
        InvalidInput: A field is malformed, or the source does not have `plain_size` bytes.
        ArtifactRefused: The source changed meanwhile.
    """
    return Sealer(plain_size, key, context, key_record_id).stream(source)
