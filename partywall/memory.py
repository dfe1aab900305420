"""The garbage collector and the C heap of a process that serves."""

from __future__ import annotations

import asyncio
import ctypes
import gc

_YOUNG, _MIDDLE, _OLD = 1_000, 20, 50
TRIM_EVERY_S = 10.0


def settle() -> None:
    """To be called once when a process has started: what it has now is never looked at again.

    With the interpreter's defaults a collection over all imported modules comes now and then, and holds up every
    request for tens of milliseconds. What requests leave behind is looked at often and in small portions instead: a
    call of grpc.aio leaves about seven objects in cycles, and 20,000 of them take ten milliseconds.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, _MIDDLE, _OLD)


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


def _malloc_trim() -> ctypes._NamedFuncPointer | None:
    try:
        function = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError):
        return None  # another C library than glibc
    function.argtypes, function.restype = [ctypes.c_size_t], ctypes.c_int
    return function


_MALLOC_TRIM = _malloc_trim()
