"""The garbage collector and the C heap of a process that serves."""

from __future__ import annotations

import asyncio
import ctypes
import gc

_YOUNG, _MIDDLE, _OLD = 1_000, 20, 50
TRIM_EVERY_S = 10.0
_M_ARENA_MAX = -8


def settle() -> None:
    """To be called once when a process has started: what it has now is never looked at again.

    With the interpreter's defaults a collection over all imported modules comes now and then, and holds up every
    request for tens of milliseconds. What requests leave behind is looked at often and in small portions instead: a
    call of grpc.aio leaves about seven objects in cycles, and 20,000 of them take ten milliseconds.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, _MIDDLE, _OLD)


def share_heap() -> bool:
    """To be called when a process starts, before it has threads: all of them allocate from one heap; False where the C
    library cannot.

    glibc gives threads heaps of their own, whose free ends `trim` does not reach: gRPC's threads receive the large
    payloads there, and each heap kept its own worst moment.
    """
    mallopt = _function("mallopt", ctypes.c_int, ctypes.c_int)
    return mallopt is not None and bool(mallopt(_M_ARENA_MAX, 1))


def trim() -> bool:
    """Gives free pages of the C heap back to the kernel; False where the C library cannot, or had none.

    glibc keeps what a burst of large payloads left, and the more the larger the blocks that were ever freed (its trim
    threshold follows them, up to 64 MiB): a process then holds its worst moment for good. Takes about 0.1 ms where
    there is nothing to give back and 0.1 ms for each MiB.
    """
    return _MALLOC_TRIM is not None and bool(_MALLOC_TRIM(0))


async def keep_trimmed(every_s: float = TRIM_EVERY_S) -> None:
    """Trims again and again, until cancelled."""
    while True:
        await asyncio.sleep(every_s)
        trim()


def _function(name: str, *arguments: type[ctypes._SimpleCData[int]]) -> ctypes._NamedFuncPointer | None:
    try:
        function: ctypes._NamedFuncPointer = getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError):
        return None  # another C library than glibc
    function.argtypes, function.restype = list(arguments), ctypes.c_int
    return function


_MALLOC_TRIM = _function("malloc_trim", ctypes.c_size_t)
