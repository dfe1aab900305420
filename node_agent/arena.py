"""A ring of shared memory for payloads too large to copy through a socket twice.

One arena per direction. The producer writes and the consumer reads; space comes back in the order it was given. The
memory is a sealed memfd (neither side can shrink it under the other's feet), passed by descriptor, in no file system.
"""

from __future__ import annotations

import fcntl
import mmap
import os

from partywall.errors import InternalError

# The first page holds the consumer's counter.
_HEADER_BYTES = mmap.PAGESIZE
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
DEFAULT_BYTES = 64 << 20
# Below this a copy through the socket is cheaper than the arena's book-keeping.
INLINE_BYTES = 32 << 10
# Pages above this mark go back to the kernel whenever the ring runs empty.
KEEP_BYTES = 8 << 20


class Arena:
    """The mapping. Positions count all bytes ever given, so that "up to here" is one number; `offset` is a place."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._map = mmap.mmap(fd, os.fstat(fd).st_size)
        self.view = memoryview(self._map)
        self.capacity_bytes = len(self.view) - _HEADER_BYTES
        self._counter = self.view[:8].cast("Q")

    @classmethod
    def create(cls, capacity_bytes: int = DEFAULT_BYTES, name: str = "partywall-arena") -> Arena:
        """A new arena; a page is taken only when it is first written."""
        fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, _HEADER_BYTES + capacity_bytes)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
        return cls(fd)

    def read(self, offset: int, length: int) -> memoryview:
        """The bytes at a place, without a copy; the other side may be hostile, so the place is checked.

        Raises:
            InternalError: The place is outside the arena.
        """
        if not (0 <= offset <= self.capacity_bytes and 0 <= length <= self.capacity_bytes - offset):
            raise InternalError(f"a payload at {offset} of {length} bytes lies outside the arena")
        return self.view[_HEADER_BYTES + offset : _HEADER_BYTES + offset + length]

    @property
    def consumed(self) -> int:
        """Position that the consumer published."""
        return self._counter[0]

    @consumed.setter
    def consumed(self, position: int) -> None:
        # A native eight-byte store: the other side sees the old value or the new one.
        self._counter[0] = position & 0xFFFFFFFFFFFFFFFF

    def drop_pages(self, start: int, end: int) -> None:
        """Gives the pages from `start` to `end` back to the kernel; they read as zeros afterwards."""
        first = -(-(_HEADER_BYTES + start) // mmap.PAGESIZE) * mmap.PAGESIZE
        last = min(-(-(_HEADER_BYTES + end) // mmap.PAGESIZE) * mmap.PAGESIZE, len(self._map))
        if last > first:
            self._map.madvise(mmap.MADV_REMOVE, first, last - first)

    def close(self) -> None:
        """Unmaps; safe to call twice. Views handed out before must be gone."""
        if self.fd >= 0:
            self._counter.release()
            self.view.release()
            self._map.close()
            os.close(self.fd)
            self.fd = -1


class Ring:
    """The producer's book of one arena."""

    def __init__(self, arena: Arena, keep_bytes: int = KEEP_BYTES) -> None:
        self._arena = arena
        self._keep_bytes = keep_bytes
        self._head = 0
        self._tail = 0
        self._high_water = 0

    @property
    def mark(self) -> int:
        """Position after everything given so far; what `release` takes."""
        return self._head

    def allocate(self, length: int) -> int | None:
        """Offset of `length` contiguous bytes, or None when there is no room for them now."""
        capacity = self._arena.capacity_bytes
        offset = self._head % capacity
        skip = capacity - offset if offset + length > capacity else 0
        if length > capacity or self._head + skip + length - self._tail > capacity:
            return None
        if skip:
            offset = 0
        self._head += skip + length
        self._high_water = max(self._high_water, offset + length)
        return offset

    def write(self, parts: list[bytes | memoryview], length: int) -> int | None:
        """Copies the parts in, one after the other; the offset, or None when there is no room."""
        offset = self.allocate(length)
        if offset is None:
            return None
        place = self._arena.read(offset, length)
        position = 0
        for part in parts:
            place[position : position + len(part)] = part
            position += len(part)
        return offset

    def release(self, position: int) -> None:
        """Everything given before `position` is free again; older or unknown positions change nothing."""
        if not self._tail < position <= self._head:
            return
        self._tail = position
        if position == self._head:
            self._restart()

    def _restart(self) -> None:
        # An empty ring starts at the front again, so that light traffic stays on a few warm pages.
        self._head = self._tail = -(-self._head // self._arena.capacity_bytes) * self._arena.capacity_bytes
        if self._high_water > self._keep_bytes:
            self._arena.drop_pages(self._keep_bytes, self._high_water)
        self._high_water = 0
