"""Sealed files in a local folder: ROOT/uploads/UPLOAD/FILE while they arrive, ROOT/blobs/ARTIFACT/FILE once whole.

Committing is one rename of a folder whose files were fsynced; deleting is one rename out of sight and then the
removal, so a power cut leaves no artifact in part. File work runs in threads.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import uuid
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Final, TypeAlias

from isolation.vault.arrivals import Arrival, Arrivals, append_whole, file_digest
from isolation.vault.blobs import SweepReport, check_names, check_sealed, missing_blob, missing_upload
from isolation.vault.durable import check_id, make_folder, storage_error, sync_folder
from partywall.clock import Clock, SystemClock
from partywall.domain.models import SealedFile
from partywall.domain.names import check_file_name
from partywall.errors import AlreadyExists, InvalidInput
from partywall.sealed.format import HEADER_BYTES

Write: TypeAlias = Callable[[int, memoryview, int], int]
# Ids never start with a dot, so nothing here can be taken for an upload or an artifact.
_TRASH: Final = ".trash-"


class LocalBlobStore:
    """Sealed files under `root` (the data directory). One process per root.

    Args:
        root: Gets `uploads/` and `blobs/`, 0700.
        clock: For the age of what `sweep` looks at; folders carry its time as their mtime.
        write: `os.pwrite`, or what stands in for a disk that fills up.
    """

    def __init__(self, root: Path, clock: Clock | None = None, write: Write = os.pwrite) -> None:
        self._uploads = root / "uploads"
        self._blobs = root / "blobs"
        self._clock = clock or SystemClock()
        self._write = write
        self._arrivals = Arrivals()
        make_folder(self._uploads)
        make_folder(self._blobs)

    async def append(self, upload_id: str, file: str, offset: int, data: bytes | memoryview) -> int:
        path = self._upload_path(upload_id) / check_file_name(file)
        return await asyncio.to_thread(self._append, upload_id, path, offset, data)

    async def received(self, upload_id: str, file: str) -> int:
        return await asyncio.to_thread(_size, self._upload_path(upload_id) / check_file_name(file))

    async def commit(self, upload_id: str, artifact_id: str, files: Sequence[SealedFile]) -> None:
        source, target = self._upload_path(upload_id), self._artifact_path(artifact_id)
        await asyncio.to_thread(self._commit, upload_id, source, target, files)

    async def abort(self, upload_id: str) -> None:
        await asyncio.to_thread(self._abort, upload_id, self._upload_path(upload_id))

    async def read(self, artifact_id: str, file: str, offset: int, length: int) -> bytes:
        path = self._artifact_path(artifact_id) / check_file_name(file)
        return await asyncio.to_thread(_read, path, artifact_id, offset, length)

    async def delete(self, artifact_id: str) -> int:
        return await asyncio.to_thread(self._remove, self._artifact_path(artifact_id))

    def local_dir(self, artifact_id: str) -> Path | None:
        return self._artifact_path(artifact_id)

    async def sweep(
        self, keep_artifacts: AbstractSet[str], keep_uploads: AbstractSet[str], older_than_s: float
    ) -> SweepReport:
        return await asyncio.to_thread(self._sweep, keep_artifacts, keep_uploads, older_than_s)

    def _upload_path(self, upload_id: str) -> Path:
        return self._uploads / check_id(upload_id, "upload_id")

    def _artifact_path(self, artifact_id: str) -> Path:
        return self._blobs / check_id(artifact_id, "artifact_id")

    def _append(self, upload_id: str, path: Path, offset: int, data: bytes | memoryview) -> int:
        with self._arrivals.open(upload_id) as arrival:
            try:
                make_folder(path.parent)
                received = append_whole(path, offset, memoryview(data), self._write)
                self._touch(path.parent)
            except OSError as error:
                raise storage_error(error, f"upload of {path.name!r}") from error
            arrival.hash_in_order(path.name, offset, data)
            return received

    def _commit(self, upload_id: str, source: Path, target: Path, files: Sequence[SealedFile]) -> None:
        with self._arrivals.open(upload_id) as arrival:
            try:
                if target.exists():
                    _check_same(source, target, files)
                elif source.is_dir():
                    _check_arrived(source, arrival, files)
                    self._publish(source, target)
                else:
                    self._arrivals.close(upload_id)
                    raise missing_upload(upload_id)
            except OSError as error:
                raise storage_error(error, f"commit of artifact {target.name!r}") from error
        self._arrivals.close(upload_id)

    def _publish(self, source: Path, target: Path) -> None:
        for path in source.iterdir():
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        self._touch(source)
        sync_folder(source)
        source.rename(target)
        sync_folder(self._blobs)
        sync_folder(self._uploads)

    def _abort(self, upload_id: str, path: Path) -> None:
        with self._arrivals.open(upload_id):
            self._remove(path)
        self._arrivals.close(upload_id)

    def _remove(self, path: Path) -> int:
        """Renames out of sight, then removes; returns the bytes, 0 when there was nothing."""
        trash = self._uploads / f"{_TRASH}{uuid.uuid4().hex}"
        try:
            path.rename(trash)
        except FileNotFoundError:
            return 0
        except OSError as error:
            raise storage_error(error, f"removal of {path.name!r}") from error
        sync_folder(path.parent)
        return _remove_tree(trash)

    def _sweep(
        self, keep_artifacts: AbstractSet[str], keep_uploads: AbstractSet[str], older_than_s: float
    ) -> SweepReport:
        latest = self._clock.now().timestamp() - older_than_s
        # What a power cut left of a removal that was promised already.
        removed = sum(_remove_tree(path) for path in self._uploads.iterdir() if path.name.startswith(_TRASH))
        artifacts = _older(self._blobs, keep_artifacts, latest)
        uploads = _older(self._uploads, keep_uploads, latest)
        for artifact_id in artifacts:
            removed += self._remove(self._blobs / artifact_id)
        for upload_id in uploads:
            with self._arrivals.open(upload_id):
                removed += self._remove(self._uploads / upload_id)
            self._arrivals.close(upload_id)
        return SweepReport(artifacts, uploads, removed)

    def _touch(self, folder: Path) -> None:
        now = self._clock.now().timestamp()
        os.utime(folder, (now, now))


def _older(folder: Path, keep: AbstractSet[str], latest: float) -> tuple[str, ...]:
    return tuple(
        sorted(
            path.name
            for path in folder.iterdir()
            if path.name not in keep and not path.name.startswith(".") and path.stat().st_mtime <= latest
        )
    )


def _check_arrived(source: Path, arrival: Arrival, files: Sequence[SealedFile]) -> None:
    check_names(files, {entry.name for entry in source.iterdir()})
    for file in files:
        path = source / file.name
        size = _size(path)
        head = _read(path, source.name, 0, HEADER_BYTES)
        check_sealed(file, size, head, arrival.digest(file.name, size) or file_digest(path))


def _check_same(source: Path, target: Path, files: Sequence[SealedFile]) -> None:
    """A commit whose answer was lost comes again: the same files are there and the upload is gone."""
    there = {path.name: _size(path) for path in target.iterdir()}
    if source.exists() or there != {file.name: file.sealed_size for file in files}:
        raise AlreadyExists(
            f"artifact {target.name!r} is there already; begin a new version", fields={"artifact_id": target.name}
        )


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except FileNotFoundError:
        return 0


def _read(path: Path, owner_id: str, offset: int, length: int) -> bytes:
    if offset < 0 or length < 0:
        raise InvalidInput(f"offset and length must not be negative, got {offset}, {length}")
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            return os.pread(descriptor, length, offset)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        raise missing_blob(owner_id, path.name) from None
    except OSError as error:
        raise storage_error(error, f"read of {path.name!r}") from error


def _remove_tree(path: Path) -> int:
    size = sum(entry.lstat().st_size for entry in path.rglob("*") if not entry.is_dir())
    shutil.rmtree(path)
    return size
