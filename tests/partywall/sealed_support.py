"""A sealed file of three segments, and sealing and opening in one call."""

from __future__ import annotations

import io
import os
import uuid

from partywall.sealed import SEGMENT_BYTES, Context, MemorySource, SealedReader, seal_stream

KEY = bytes(range(32))
CONTEXT = Context("tenant-a", "digits", 3, "model.safetensors")
RECORD = str(uuid.UUID(int=7))
PLAIN = os.urandom(2 * SEGMENT_BYTES + 1000)


def seal(plain: bytes, key: bytes = KEY, context: Context = CONTEXT) -> bytes:
    return b"".join(bytes(view) for view in seal_stream(io.BytesIO(plain), len(plain), key, context, RECORD))


def open_all(sealed: bytes, threads: int = 1, context: Context = CONTEXT, key: bytes = KEY) -> bytes:
    reader = SealedReader(MemorySource(sealed), key, context)
    target = bytearray(reader.plain_size)
    reader.open_into(target, threads)
    return bytes(target)


SEALED = seal(PLAIN)
