"""Where the processes of one router meet: a private folder with a short path, noted in the data directory.

Sockets need a path of at most 107 bytes (unix(7)), which a data directory may not have; so the folder lies in the
temporary directory. A router that is killed cannot remove it: the next start on the same data directory does, by the
note. Whether anybody still uses one is told by a lock on a file in it, whose descriptor every process of the router
inherits: the kernel gives it up with the last of them.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)

PREFIX = "partywall-"
_LOCK = "lock"
_NOTE = "processes"


class SharedFolder:
    """A fresh folder (0700), held until `close`. Folders that earlier routers of this data directory left go first."""

    def __init__(self, data_dir: Path, root: Path | None = None) -> None:
        """Args: `root` is where folders are made; none: the temporary directory."""
        self._note = data_dir / "run" / _NOTE
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=root))
        self.lock = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        """Descriptor that the router's other processes must inherit."""
        fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._rewrite(lambda known: [*(one for one in known if not removed(one)), self.path])

    def close(self) -> None:
        """Removes the folder. Call it when the other processes have ended."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self.lock)
        self._rewrite(lambda known: [one for one in known if one != self.path])

    def _rewrite(self, change: Callable[[list[Path]], list[Path]]) -> None:
        try:
            self._note.parent.mkdir(exist_ok=True, mode=0o700)
            with _locked(self._note) as descriptor:
                text = os.pread(descriptor, os.fstat(descriptor).st_size, 0).decode(errors="surrogateescape")
                known = [Path(line) for line in text.splitlines() if line.startswith("/")]
                fresh = b"".join(os.fsencode(one) + b"\n" for one in dict.fromkeys(change(known)))
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, fresh, 0)
        except OSError as failure:
            # Only a left-over folder is at stake; what else is wrong with the data directory is said where it matters.
            log.warning(
                "the folder of the router's sockets could not be noted", path=str(self._note), error=str(failure)
            )


def removed(folder: Path) -> bool:
    """Removes what a killed router left; False: somebody still uses it.

    A path that does not look like one of ours, or is not this user's alone, is forgotten and not touched: the note may
    be older than the last start of the machine, and anybody may write to the temporary directory.
    """
    if not _ours(folder):
        return True
    descriptor = None
    try:
        descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    finally:
        if descriptor is not None:
            os.close(descriptor)
    log.info("removed what an earlier router left", folder=str(folder))
    return True


def _ours(folder: Path) -> bool:
    try:
        found = os.lstat(folder)
    except (OSError, ValueError):
        return False
    private = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and stat.S_IMODE(found.st_mode) == 0o700
    return private and folder.name.startswith(PREFIX)


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    """Two routers that start at once on one data directory (one is refused later) must not mix up the note."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        with suppress(OSError):
            os.close(descriptor)
