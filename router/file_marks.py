"""Whether a file has changed, for those who look at files now and then."""

from __future__ import annotations

from pathlib import Path


def mark_of(path: Path) -> tuple[int, ...]:
    """What changes with a file's content or rights, also where a link is turned to another file; empty: no file."""
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
