"""Where a reader takes sealed bytes from: a local file, or memory."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from partywall.errors import NotFound, Reason, Unavailable


class Source(Protocol):
    """Sealed bytes with random access. `pread_into` blocks and may be called from several threads."""

    @property
    def size(self) -> int:
        """Bytes in all."""
        ...

    def pread_into(self, offset: int, buffer: memoryview) -> int:
        """Reads up to `len(buffer)` bytes at `offset`; returns how many, 0 at the end."""
        ...


class FileSource:
    """A sealed file on a local disk; close it, or use it in a `with` block.

    Raises:
        NotFound: There is no such file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise NotFound(f"sealed file {path.name!r} is not there; fetch it again") from None
        self._size = os.fstat(self._descriptor).st_size

    @property
    def size(self) -> int:
        return self._size

    def pread_into(self, offset: int, buffer: memoryview) -> int:
        """As `Source` says.

        Raises:
            Unavailable: The disk answered with an error.
        """
        try:
            return os.preadv(self._descriptor, [buffer], offset)
        except OSError as error:
            raise Unavailable(
                f"sealed file {self._path.name!r} cannot be read at byte {offset}: {error.strerror}; check the disk",
                reason=Reason.STORE_UNAVAILABLE,
                fields={"file": self._path.name, "offset": str(offset)},
            ) from error

    def close(self) -> None:
        """Closes the descriptor; may be called again."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class MemorySource:
    """Sealed bytes that are in memory already."""

    def __init__(self, data: bytes | bytearray | memoryview) -> None:
        self._view = memoryview(data).cast("B")

    @property
    def size(self) -> int:
        return len(self._view)

    def pread_into(self, offset: int, buffer: memoryview) -> int:
        found = self._view[offset : offset + len(buffer)]
        buffer[: len(found)] = found
        return len(found)
