"""The folder of the MPS sockets: short, private, found again, and never somebody else's."""

from __future__ import annotations

import stat
import tempfile
from pathlib import Path

import pytest

from node_agent.run_directory import LONGEST, run_directory
from partywall.errors import InvalidInput


@pytest.fixture
def runtime() -> Path:
    """A short path: pytest's own may be long."""
    with tempfile.TemporaryDirectory(prefix="rt") as name:
        yield Path(name)


@pytest.fixture
def deep(tmp_path: Path) -> Path:
    folder = tmp_path / ("x" * LONGEST)
    folder.mkdir()
    return folder


def test_a_short_folder_is_used_itself(runtime: Path) -> None:
    assert run_directory(runtime, {}) == runtime


def test_a_long_one_gets_a_private_folder_that_is_found_again(runtime: Path, deep: Path) -> None:
    made = run_directory(deep, {"XDG_RUNTIME_DIR": str(runtime)})
    assert made.parent == runtime
    assert stat.S_IMODE(made.stat().st_mode) == 0o700
    assert run_directory(deep, {"XDG_RUNTIME_DIR": str(runtime)}) == made
    assert run_directory(deep, {}) == made, "also where the variable is gone"


def test_what_is_not_ours_alone_any_more_is_not_used(runtime: Path, deep: Path) -> None:
    environment = {"XDG_RUNTIME_DIR": str(runtime)}
    first = run_directory(deep, environment)
    first.chmod(0o755)
    second = run_directory(deep, environment)
    assert second != first
    second.rmdir()
    second.symlink_to(first)
    third = run_directory(deep, environment)
    assert third not in (first, second)
    third.rmdir()
    assert run_directory(deep, environment).is_dir()


def test_without_any_short_folder_it_says_what_to_do(
    tmp_path: Path, deep: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    with pytest.raises(InvalidInput, match="XDG_RUNTIME_DIR or TMPDIR"):
        run_directory(deep, {"XDG_RUNTIME_DIR": str(tmp_path / "not-there")})
    assert list(deep.iterdir()) == []
