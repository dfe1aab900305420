"""Free heap goes back to the kernel."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
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


def test_threads_of_a_process_share_one_heap() -> None:
    """In a process of its own: the setting is for good. 60 KB blocks of a thread come back with its last trim."""
    program = (
        "import threading\n"
        "from partywall.memory import share_heap, trim\n"
        "assert share_heap()\n"
        "def own():\n"
        "    lines = open('/proc/self/status').read().splitlines()\n"
        "    return next(int(x.split()[1]) for x in lines if x.startswith('RssAnon:'))\n"
        "done, leave, start = threading.Event(), threading.Event(), own()\n"
        "def work():\n"
        "    blocks = [bytes(60_000) for _ in range(1000)]\n"
        "    blocks.clear()\n"
        "    done.set()\n"
        "    leave.wait()\n"
        "thread = threading.Thread(target=work)\n"
        "thread.start()\n"
        "done.wait()\n"
        "trim()\n"
        "print(own() - start)\n"
        "leave.set()\n"
        "thread.join()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert int(done.stdout) < 10_000
