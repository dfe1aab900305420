"""Free heap goes back to the kernel."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path

import pytest

from partywall.memory import keep_trimmed, trim

MIB = 1 << 20


def own_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon:"))


def test_what_lies_between_blocks_in_use_goes_back() -> None:
    # Blocks of the heap, freed but for every eighth: none of it is at the top, so free() alone keeps it.
    blocks = [bytes(60_000) for _ in range(2000)]
    kept = blocks[::8]
    del blocks
    gc.collect()
    before = own_bytes()
    assert trim()
    assert own_bytes() <= before - 50 * MIB
    assert len(kept) == 250


async def test_it_is_done_again_until_cancelled() -> None:
    task = asyncio.create_task(keep_trimmed(0.0))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
