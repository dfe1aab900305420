from __future__ import annotations

import random
import struct

import pytest

from node_agent import frames
from partywall.errors import InternalError


@pytest.mark.parametrize("chunk_bytes", [1, 2, 3, 5, 64, 10_000])
def test_any_cut_of_the_stream_gives_the_same_bodies(chunk_bytes: int) -> None:
    seed = 7
    print("seed", seed)
    rng = random.Random(seed)
    bodies = [rng.randbytes(rng.choice([0, 1, 3, 200, 5000])) for _ in range(40)]
    stream = b"".join(map(frames.encode, bodies))
    reader, found = frames.FrameReader(), []
    for start in range(0, len(stream), chunk_bytes):
        found += reader.feed(stream[start : start + chunk_bytes])
    assert found == bodies


def test_a_length_out_of_step_is_an_error() -> None:
    with pytest.raises(InternalError, match="out of step"):
        frames.FrameReader().feed(struct.pack("<I", frames.MAX_FRAME_BYTES + 1))
