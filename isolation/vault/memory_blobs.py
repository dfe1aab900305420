"""The simulated blob store: in memory, with an optional limit that fills up as a disk does."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path

from isolation.vault.blobs import (
    SweepReport,
    check_append,
    check_names,
    check_sealed,
    missing_blob,
    missing_upload,
)
from isolation.vault.durable import check_id
from partywall.clock import Clock, SystemClock
from partywall.domain.models import SealedFile
from partywall.domain.names import check_file_name
from partywall.errors import AlreadyExists, Reason, Unavailable
from partywall.sealed.format import HEADER_BYTES


class MemoryBlobStore:
    """Sealed files in memory.

    Args:
        capacity_bytes: All files together; above it appends answer STORAGE_FULL. None: no limit.
        clock: For the age of what `sweep` looks at.
    """

    def __init__(self, capacity_bytes: int | None = None, clock: Clock | None = None) -> None:
        self._capacity_bytes = capacity_bytes
        self._clock = clock or SystemClock()
        self._uploads: dict[str, dict[str, bytearray]] = {}
        self._artifacts: dict[str, dict[str, bytes]] = {}
        self._touched: dict[str, float] = {}

    async def append(self, upload_id: str, file: str, offset: int, data: bytes | memoryview) -> int:
        check_id(upload_id, "upload_id")
        check_file_name(file)
        found = self._uploads.get(upload_id, {}).get(file, bytearray())
        check_append(file, offset, len(found))
        if self._capacity_bytes is not None and self._used() + len(data) > self._capacity_bytes:
            raise Unavailable(
                f"upload of {file!r}: the storage is full ({self._capacity_bytes} bytes); delete a version, try again",
                reason=Reason.STORAGE_FULL,
            )
        found += data
        self._uploads.setdefault(upload_id, {})[file] = found
        self._touched[upload_id] = self._clock.now().timestamp()
        return len(found)

    async def received(self, upload_id: str, file: str) -> int:
        check_id(upload_id, "upload_id")
        check_file_name(file)
        return len(self._uploads.get(upload_id, {}).get(file, b""))

    async def commit(self, upload_id: str, artifact_id: str, files: Sequence[SealedFile]) -> None:
        check_id(upload_id, "upload_id")
        check_id(artifact_id, "artifact_id")
        there = self._artifacts.get(artifact_id)
        arrived = self._uploads.get(upload_id)
        if there is not None:
            if arrived is None and {n: len(d) for n, d in there.items()} == {f.name: f.sealed_size for f in files}:
                return
            raise AlreadyExists(
                f"artifact {artifact_id!r} is there already; begin a new version", fields={"artifact_id": artifact_id}
            )
        if arrived is None:
            raise missing_upload(upload_id)
        check_names(files, arrived.keys())
        for file in files:
            data = bytes(arrived[file.name])
            check_sealed(file, len(data), data[:HEADER_BYTES], hashlib.sha256(data).digest())
        self._artifacts[artifact_id] = {name: bytes(data) for name, data in arrived.items()}
        self._touched[artifact_id] = self._clock.now().timestamp()
        await self.abort(upload_id)

    async def abort(self, upload_id: str) -> None:
        check_id(upload_id, "upload_id")
        self._uploads.pop(upload_id, None)
        self._touched.pop(upload_id, None)

    async def read(self, artifact_id: str, file: str, offset: int, length: int) -> bytes:
        check_id(artifact_id, "artifact_id")
        check_file_name(file)
        found = self._artifacts.get(artifact_id, {}).get(file)
        if found is None:
            raise missing_blob(artifact_id, file)
        return found[offset : offset + length]

    async def delete(self, artifact_id: str) -> int:
        check_id(artifact_id, "artifact_id")
        self._touched.pop(artifact_id, None)
        return sum(len(data) for data in self._artifacts.pop(artifact_id, {}).values())

    def local_dir(self, artifact_id: str) -> Path | None:
        check_id(artifact_id, "artifact_id")
        return None

    async def sweep(
        self, keep_artifacts: AbstractSet[str], keep_uploads: AbstractSet[str], older_than_s: float
    ) -> SweepReport:
        latest = self._clock.now().timestamp() - older_than_s
        artifacts = tuple(sorted(a for a in self._artifacts.keys() - keep_artifacts if self._touched[a] <= latest))
        uploads = tuple(sorted(u for u in self._uploads.keys() - keep_uploads if self._touched[u] <= latest))
        before = self._used()
        for artifact_id in artifacts:
            await self.delete(artifact_id)
        for upload_id in uploads:
            await self.abort(upload_id)
        return SweepReport(artifacts, uploads, before - self._used())

    def _used(self) -> int:
        arriving = sum(len(data) for files in self._uploads.values() for data in files.values())
        return arriving + sum(len(data) for files in self._artifacts.values() for data in files.values())
