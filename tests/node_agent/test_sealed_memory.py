"""Sealed files in memory: within a budget, oldest out first, and nothing of what was deleted."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from node_agent.artifacts import KEEP_UNUSED_S, Artifacts
from node_agent.sealed_memory import SealedMemory, mlock
from partywall.v1 import models_pb2


def sealed(folder: Path, artifact: str, *sizes: int) -> list[Path]:
    home = folder / artifact
    home.mkdir()
    files = []
    for at, size in enumerate(sizes):
        files.append(home / f"f{at}")
        files[-1].write_bytes(bytes(size))
    return files


def test_the_least_recently_released_goes_first(tmp_path: Path) -> None:
    memory = SealedMemory(10_000, lambda address, length: True)
    for name in ("a", "b"):
        assert memory.keep(name, sealed(tmp_path, name, 3000, 1000))
    assert memory.keep("a", [])
    assert memory.keep("c", sealed(tmp_path, "c", 5000))
    assert memory.artifacts == ("a", "c")
    assert memory.held_bytes == 9000
    assert memory.locked("a")
    assert not memory.locked("b")
    memory.close()
    assert memory.held_bytes == 0


def test_what_is_too_large_absent_or_empty_is_not_held(tmp_path: Path) -> None:
    memory = SealedMemory(1000)
    assert not memory.keep("big", sealed(tmp_path, "big", 2000))
    assert not memory.keep("gone", [tmp_path / "nowhere"])
    assert not memory.keep("none", [])
    assert memory.artifacts == ()


def test_without_the_right_to_lock_it_reads_ahead(tmp_path: Path) -> None:
    memory = SealedMemory(10_000, lambda address, length: False)
    assert memory.keep("a", sealed(tmp_path, "a", 5000, 0))
    assert not memory.locked("a")


def test_deleted_files_are_let_go(tmp_path: Path) -> None:
    memory = SealedMemory(10_000, lambda address, length: True)
    files = sealed(tmp_path, "a", 100)
    memory.keep("a", files)
    files[0].unlink()
    memory.sweep()
    assert memory.artifacts == ()


def test_the_system_call_answers(tmp_path: Path) -> None:
    """Locks a page where the machine allows it; a bad address is refused either way."""
    memory = SealedMemory(10_000)
    assert memory.keep("a", sealed(tmp_path, "a", 4096))
    assert memory.locked("a") in (True, False)
    assert not mlock(0, 1 << 40)


async def nothing(artifact: str, file: str, offset: int) -> AsyncIterator[bytes]:
    raise AssertionError("nothing is fetched: the files are here")
    yield b""


@pytest.mark.parametrize("budget", [0, 10_000])
async def test_released_artifacts_are_held_and_those_in_use_are_not(tmp_path: Path, budget: int) -> None:
    memory = SealedMemory(budget, lambda address, length: True)
    artifacts = Artifacts(tmp_path / "cache", tmp_path, nothing, memory)
    files = {}
    for name in ("a", "b"):
        sealed(tmp_path, name, 2000)
        files[name] = [models_pb2.SealedFile(name="f0", sealed_size=2000)]
        await artifacts.folder(name, files[name])
    artifacts.wanted({"a", "b"})
    assert memory.artifacts == ()
    artifacts.wanted({"b"})
    await artifacts.settled()
    assert memory.artifacts == (("a",) if budget else ())
    artifacts.wanted({"b"})
    await artifacts.folder("a", files["a"])
    artifacts.wanted({"a", "b"})
    artifacts.wanted(set())
    await artifacts.settled()
    assert set(memory.artifacts) == ({"a", "b"} if budget else set())


async def test_fetched_files_that_nothing_uses_go_after_a_day(tmp_path: Path) -> None:
    async def fetch(artifact: str, file: str, offset: int) -> AsyncIterator[bytes]:
        yield bytes(2000 - offset)

    artifacts = Artifacts(tmp_path / "cache", None, fetch)
    files = [models_pb2.SealedFile(name="f0", sealed_size=2000)]
    for name in ("standing", "released"):
        assert (await artifacts.folder(name, files) / "f0").stat().st_size == 2000
    artifacts.wanted({"standing"})
    now_s = (tmp_path / "cache" / "released").stat().st_mtime
    assert artifacts.sweep(now_s + KEEP_UNUSED_S - 1) == []
    assert artifacts.sweep(now_s + KEEP_UNUSED_S + 60) == ["released"]
    assert [p.name for p in (tmp_path / "cache").iterdir()] == ["standing"]
    assert (await artifacts.folder("released", files) / "f0").is_file()
