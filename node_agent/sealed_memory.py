"""Sealed files of released versions, held in host memory: a version that comes back is not read from disk.

The files are mapped and locked where they lie in the page cache, so a worker's ordinary reads find them there; nothing
is copied, and what is held is ciphertext. Where the process may not lock so much (RLIMIT_MEMLOCK) the pages are only
read ahead, and the kernel may drop them again.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import structlog

log = structlog.get_logger(__name__)

Lock = Callable[[int, int], bool]
"""Locks (address, length in bytes) in memory; False where that is not allowed."""


def mlock(address: int, length: int) -> bool:
    """The system call. Unmapping unlocks."""
    libc = ctypes.CDLL(None, use_errno=True)
    return int(libc.mlock(ctypes.c_void_p(address), ctypes.c_size_t(length))) == 0


@dataclass(slots=True)
class _Held:
    """The mapped files of one artifact."""

    paths: list[Path] = field(default_factory=list)
    maps: list[mmap.mmap] = field(default_factory=list)
    size_bytes: int = 0
    locked: bool = True


class SealedMemory:
    """Artifacts by id, the least recently released one first. Blocks for as long as reading the files takes."""

    def __init__(self, budget_bytes: int, lock: Lock = mlock) -> None:
        self.budget_bytes = budget_bytes
        self._lock = lock
        self._held: OrderedDict[str, _Held] = OrderedDict()

    @property
    def held_bytes(self) -> int:
        return sum(one.size_bytes for one in self._held.values())

    @property
    def artifacts(self) -> tuple[str, ...]:
        """Those that are held, the next to go first."""
        return tuple(self._held)

    def locked(self, artifact_id: str) -> bool:
        """Whether all of an artifact is locked, not only read ahead."""
        held = self._held.get(artifact_id)
        return held is not None and held.locked

    def keep(self, artifact_id: str, files: Sequence[Path]) -> bool:
        """Holds an artifact's files; False when they are larger than the budget or cannot be read."""
        if artifact_id in self._held:
            self._held.move_to_end(artifact_id)
            return True
        try:
            size_bytes = sum(path.stat().st_size for path in files)
            if not size_bytes or size_bytes > self.budget_bytes:
                return False
            self._make_room(size_bytes)
            held = _Held(size_bytes=size_bytes)
            self._held[artifact_id] = held
            for path in files:
                self._map(held, path)
        except OSError as failure:
            self.forget(artifact_id)
            log.warning("sealed files cannot be kept in memory", artifact=artifact_id, error=failure.strerror)
            return False
        log.info("sealed files kept in memory", artifact=artifact_id, bytes=size_bytes, locked=held.locked)
        return True

    def forget(self, artifact_id: str) -> None:
        """Lets an artifact go; one that is not held is no error."""
        held = self._held.pop(artifact_id, None)
        for one in held.maps if held is not None else ():
            one.close()

    def sweep(self) -> None:
        """Lets go what was deleted: a mapping would keep its blocks on the disk."""
        for artifact_id, held in list(self._held.items()):
            if not all(path.exists() for path in held.paths):
                self.forget(artifact_id)

    def close(self) -> None:
        for artifact_id in self.artifacts:
            self.forget(artifact_id)

    def _make_room(self, size_bytes: int) -> None:
        while self._held and self.held_bytes + size_bytes > self.budget_bytes:
            self.forget(next(iter(self._held)))

    def _map(self, held: _Held, path: Path) -> None:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if not size:
                return
            area = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
        held.paths.append(path)
        held.maps.append(area)
        # The view must be gone before the mapping can be closed.
        view = np.frombuffer(area, dtype=np.uint8)
        address = view.ctypes.data
        del view
        if not self._lock(address, size):
            held.locked = False
            area.madvise(mmap.MADV_WILLNEED)
