"""Sealed files as a push leaves them, and their way into a blob store."""

from __future__ import annotations

import io
import os
import uuid
from pathlib import Path

from isolation.vault.blobs import BlobStore
from partywall.domain.models import SealedFile
from partywall.sealed import Context, Sealer

UPLOAD, ARTIFACT = "upload-1", "artifact-1"


def everything_under(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


def sealed_file(name: str, size: int) -> tuple[SealedFile, bytes]:
    sealer = Sealer(size, bytes(32), Context("tenant-a", "m", 1, name), str(uuid.UUID(int=1)))
    data = b"".join(bytes(view) for view in sealer.stream(io.BytesIO(os.urandom(size))))
    return sealer.sealed_file(), data


WEIGHTS, WEIGHTS_DATA = sealed_file("model.safetensors", 50_000)
CONFIG, CONFIG_DATA = sealed_file("config.json", 0)
FILES = (WEIGHTS, CONFIG)


async def upload(store: BlobStore, upload_id: str = UPLOAD, step: int = 20_000) -> None:
    for file, data in ((WEIGHTS, WEIGHTS_DATA), (CONFIG, CONFIG_DATA)):
        for offset in range(0, len(data), step):
            part = memoryview(data)[offset : offset + step]
            assert await store.append(upload_id, file.name, offset, part) == offset + len(part)
