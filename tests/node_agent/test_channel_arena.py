from __future__ import annotations

import mmap
import os
import random
from collections import deque
from collections.abc import Iterator

import pytest

from node_agent.arena import Arena, Ring
from partywall.errors import InternalError


@pytest.fixture
def arena() -> Iterator[Arena]:
    made = Arena.create(1 << 20)
    yield made
    made.close()


def resident_bytes(arena: Arena) -> int:
    return os.fstat(arena.fd).st_blocks * 512


def test_two_mappings_share_the_bytes(arena: Arena) -> None:
    other = Arena(os.dup(arena.fd))
    offset = Ring(arena).write([b"abc", memoryview(b"def")], 6)
    assert offset == 0
    assert bytes(other.read(0, 6)) == b"abcdef"
    other.consumed = 6
    assert arena.consumed == 6
    other.close()


@pytest.mark.parametrize(("offset", "length"), [(-1, 1), (0, 1 << 21), (1 << 20, 1), (5, -1), (1 << 62, 1 << 62)])
def test_a_place_outside_is_refused(arena: Arena, offset: int, length: int) -> None:
    with pytest.raises(InternalError, match="outside"):
        arena.read(offset, length)


def test_neither_side_can_shrink_it(arena: Arena) -> None:
    with pytest.raises(PermissionError):
        os.ftruncate(arena.fd, mmap.PAGESIZE)


def test_close_twice_is_fine() -> None:
    arena = Arena.create(4096)
    arena.close()
    arena.close()


def test_full_ring_says_none_and_recovers(arena: Arena) -> None:
    ring = Ring(arena)
    assert ring.allocate(900_000) == 0
    mark = ring.mark
    assert ring.allocate(200_000) is None
    assert ring.allocate((1 << 20) + 1) is None
    ring.release(mark)
    assert ring.allocate(200_000) == 0


def test_unknown_marks_change_nothing(arena: Arena) -> None:
    ring = Ring(arena)
    ring.allocate(1000)
    for mark in (0, 5000, -1):
        ring.release(mark)
    assert ring.allocate((1 << 20) - 999) is None


def test_random_traffic_never_overlaps(arena: Arena) -> None:
    seed = 3
    print("seed", seed)
    rng = random.Random(seed)
    ring = Ring(arena)
    live: deque[tuple[int, int, int]] = deque()
    for _ in range(5000):
        length = rng.randrange(1, 300_000)
        offset = ring.allocate(length)
        if offset is None or rng.random() < 0.3:
            if live:
                ring.release(live.popleft()[2])
            if offset is None:
                continue
        assert 0 <= offset <= arena.capacity_bytes - length
        assert all(offset + length <= start or end <= offset for start, end, _ in live)
        live.append((offset, offset + length, ring.mark))


def test_pages_of_a_burst_go_back(arena: Arena) -> None:
    ring = Ring(arena, keep_bytes=64 << 10)
    ring.write([bytes([1]) * 900_000], 900_000)
    assert resident_bytes(arena) >= 900_000
    ring.release(ring.mark)
    assert resident_bytes(arena) <= 128 << 10


def test_light_traffic_stays_on_the_first_pages(arena: Arena) -> None:
    ring = Ring(arena)
    for _ in range(1000):
        offset = ring.write([b"x" * 40_000], 40_000)
        assert offset == 0
        ring.release(ring.mark)
    assert resident_bytes(arena) <= 64 << 10
