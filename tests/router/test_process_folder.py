"""The folder where a router's processes meet: removed by the next start when a kill left it, never while in use."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from router.processes.shared_folder import PREFIX, SharedFolder, removed

MEMBER = "import sys; print('up', flush=True); sys.stdin.read()"
ROUTER = """
import subprocess, sys
from pathlib import Path
from router.processes.shared_folder import SharedFolder
folder = SharedFolder(Path(sys.argv[1]), Path(sys.argv[2]))
(folder.path / "quotas").write_bytes(b"0" * 100)
member = subprocess.Popen([sys.executable, "-c", sys.argv[3]], stdin=0, stdout=1, pass_fds=(folder.lock,))
print(folder.path, member.pid, flush=True)
member.wait()
"""


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    """A data directory, and where folders are made."""
    for name in ("data", "tmp"):
        (tmp_path / name).mkdir()
    return tmp_path / "data", tmp_path / "tmp"


def noted(data: Path) -> list[str]:
    return (data / "run" / "processes").read_text().splitlines()


def test_a_stop_in_order_leaves_nothing(places: tuple[Path, Path]) -> None:
    data, root = places
    folder = SharedFolder(data, root)
    assert folder.path.stat().st_mode & 0o777 == 0o700
    assert noted(data) == [str(folder.path)]
    folder.close()
    assert (list(root.iterdir()), noted(data)) == ([], [])


def test_what_a_kill_left_goes_once_its_last_process_is_gone(places: tuple[Path, Path]) -> None:
    data, root = places
    router = subprocess.Popen(
        [sys.executable, "-c", ROUTER, str(data), str(root), MEMBER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert router.stdin is not None
    assert router.stdout is not None
    with router.stdin, router.stdout:
        lines = sorted((router.stdout.readline().strip(), router.stdout.readline().strip()))
        left = Path(lines[0].split()[0])
        assert lines[1] == "up"
        router.send_signal(signal.SIGKILL)
        router.wait(10)
        # One of its other processes lives on for a while: it still has the lock.
        first = SharedFolder(data, root)
        assert (left / "quotas").exists()
        assert noted(data) == [str(left), str(first.path)]
        router.stdin.close()
        assert router.stdout.read() == ""
    second = SharedFolder(data, root)
    assert not left.exists()
    # The first of the two is in use.
    assert noted(data) == [str(first.path), str(second.path)]
    first.close()
    second.close()
    assert list(root.iterdir()) == []


def test_what_is_not_ours_is_not_touched(places: tuple[Path, Path]) -> None:
    data, root = places
    foreign, open_to_all, elsewhere = root / "photos", root / f"{PREFIX}open", root / f"{PREFIX}link"
    for one in (foreign, open_to_all):
        one.mkdir(mode=0o700)
        (one / "lock").touch()
    open_to_all.chmod(0o755)
    elsewhere.symlink_to(foreign)
    (data / "run").mkdir()
    told = [foreign, open_to_all, elsewhere, root / f"{PREFIX}gone", "relative", "/"]
    (data / "run" / "processes").write_text("".join(f"{one}\n" for one in told))
    folder = SharedFolder(data, root)
    assert (foreign / "lock").exists()
    assert (open_to_all / "lock").exists()
    assert elsewhere.is_symlink()
    assert noted(data) == [str(folder.path)]
    folder.close()


def test_a_folder_without_its_lock_is_left_alone(places: tuple[Path, Path]) -> None:
    _, root = places
    bare = root / f"{PREFIX}bare"
    bare.mkdir(mode=0o700)
    assert removed(bare)
    assert bare.exists()


def test_a_data_directory_that_cannot_be_written_does_not_keep_a_router_from_starting(
    places: tuple[Path, Path],
) -> None:
    data, root = places
    (data / "run").write_text("no folder")
    folder = SharedFolder(data, root)
    assert os.fstat(folder.lock).st_size == 0
    folder.close()
    assert list(root.iterdir()) == []
