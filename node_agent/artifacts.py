"""Sealed files on this node: read where the blob store lies, or fetched once over the link. Ciphertext only."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from pathlib import Path

from node_agent.sealed_memory import SealedMemory
from partywall.domain.names import check_file_name
from partywall.errors import DataLoss, Reason, Unavailable
from partywall.v1 import models_pb2

KEEP_UNUSED_S = 86_400.0
"""How long fetched files stay that nothing here uses: a rollback or a move back needs no second fetch."""
SWEEP_EVERY_S = 3_600.0

Fetch = Callable[[str, str, int], AsyncIterator[bytes]]
"""(artifact id, file name, offset) -> ciphertext from there to the end."""


class Artifacts:
    """Finds, and where needed fetches, the sealed files of artifacts."""

    def __init__(
        self, cache_dir: Path, blob_dir: Path | None, fetch: Fetch, memory: SealedMemory | None = None
    ) -> None:
        self._cache_dir = cache_dir
        self._blob_dir = blob_dir
        self._fetch = fetch
        self._locks: dict[str, asyncio.Lock] = {}
        self._memory = memory or SealedMemory(0)
        self._used: dict[str, list[Path]] = {}
        self._turn = asyncio.Lock()
        self._holding: set[asyncio.Task[None]] = set()

    async def folder(self, artifact_id: str, files: Sequence[models_pb2.SealedFile]) -> Path:
        """The folder that holds all files of the artifact at their full sealed size.

        Raises:
            Unavailable: The link broke while fetching; what has arrived is kept.
            DataLoss: A file has another size than the router's registry says.
        """
        if not files:
            return self._cache_dir
        folder = await self._find(artifact_id, files)
        self._used[artifact_id] = [folder / f.name for f in files]
        return folder

    def wanted(self, artifact_ids: Collection[str]) -> None:
        """What stands from now on: of what was used and no longer stands, the sealed files are held in memory."""
        released = {one: self._used.pop(one) for one in self._used.keys() - set(artifact_ids)}
        for one in released:
            if (folder := self._cache_dir / one).is_dir():
                os.utime(folder)
        if not self._memory.budget_bytes or not (released or self._memory.artifacts):
            return
        task = asyncio.get_running_loop().create_task(self._hold(released))
        self._holding.add(task)
        task.add_done_callback(self._holding.discard)

    async def settled(self) -> None:
        """Waits until what was released is held."""
        while self._holding:
            await asyncio.wait(set(self._holding))

    async def _hold(self, released: Mapping[str, Sequence[Path]]) -> None:
        def hold() -> None:
            self._memory.sweep()
            for artifact_id, files in released.items():
                self._memory.keep(artifact_id, files)

        # Locking reads whole files; one at a time, beside the loop.
        async with self._turn:
            await asyncio.to_thread(hold)

    async def _find(self, artifact_id: str, files: Sequence[models_pb2.SealedFile]) -> Path:
        if self._blob_dir is not None:
            local = self._blob_dir / artifact_id
            if all((local / f.name).is_file() for f in files):
                return local
        lock = self._locks.setdefault(artifact_id, asyncio.Lock())
        async with lock:
            folder = self._cache_dir / artifact_id
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.utime(folder)
            for file in files:
                await self._complete(artifact_id, folder / check_file_name(file.name), file)
        return folder

    def sweep(self, now_s: float) -> list[str]:
        """Removes fetched artifacts that stand nowhere here and were not asked for in a day; answers which.

        Args:
            now_s: Seconds since the epoch, as file times are.
        """
        if not self._cache_dir.is_dir():
            return []
        gone = []
        for folder in self._cache_dir.iterdir():
            lock = self._locks.get(folder.name)
            arriving = lock is not None and lock.locked()
            if folder.name in self._used or arriving or folder.stat().st_mtime > now_s - KEEP_UNUSED_S:
                continue
            shutil.rmtree(folder, ignore_errors=True)
            self._locks.pop(folder.name, None)
            gone.append(folder.name)
        return gone

    async def _complete(self, artifact_id: str, path: Path, file: models_pb2.SealedFile) -> None:
        have = _usable_bytes(path, file.sealed_size)
        if have < file.sealed_size:
            try:
                with open(path, "ab", opener=lambda p, flags: os.open(p, flags, 0o600)) as out:  # noqa: ASYNC230
                    async for chunk in self._fetch(artifact_id, file.name, have):
                        out.write(chunk)
                        have += len(chunk)
            except OSError as error:
                raise Unavailable(
                    f"cannot keep {file.name} in {path.parent}: {error.strerror}; free space and load again",
                    reason=Reason.STORAGE_FULL,
                ) from error
        if have != file.sealed_size:
            raise DataLoss(
                f"{file.name} has {have} bytes in the blob store, the registry says {file.sealed_size}",
                fields={"file": file.name, "artifact": artifact_id},
            )


def _usable_bytes(path: Path, sealed_size: int) -> int:
    """How much of a file is here; one that is too long is none of ours and is removed."""
    have = path.stat().st_size if path.exists() else 0
    if have > sealed_size:
        path.unlink()
        return 0
    return have
