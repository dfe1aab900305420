"""Where sockets lie: a folder of this user alone, with a path short enough for a socket."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path

from partywall.errors import InvalidInput

LONGEST = 107 - len("/mps99/pipe/control_privileged")
"""Bytes that the folder's path may have: `sun_path` holds 108, the last a zero (unix(7))."""
_KEPT = "sockets"


def run_directory(folder: Path, environment: Mapping[str, str]) -> Path:
    """`folder` itself where its path is short enough. Else a private one below XDG_RUNTIME_DIR or the temporary
    directory, with a name nobody can foresee; it is remembered in `folder`, so that a later agent finds its daemons.

    Args:
        folder: Of this agent, private and lasting.
        environment: Names the user's runtime directory.

    Raises:
        InvalidInput: No such folder is short enough.
    """
    if _fits(folder):
        return folder
    note = folder / _KEPT
    if (kept := _remembered(note)) is not None:
        return kept
    roots = [Path(one) for one in (environment.get("XDG_RUNTIME_DIR", ""), tempfile.gettempdir()) if one]
    for root in roots:
        if not (root.is_dir() and os.access(root, os.W_OK)):
            continue
        made = Path(tempfile.mkdtemp(prefix="partywall-", dir=root))  # 0700
        if _fits(made):
            fresh = note.with_name(f".{_KEPT}.new")
            fresh.write_text(str(made))
            fresh.replace(note)
            return made
        made.rmdir()
    raise InvalidInput(
        f"no folder for sockets with a path of at most {LONGEST} bytes: {folder} and {', '.join(map(str, roots))} are "
        "too long; choose a shorter data_dir, or set XDG_RUNTIME_DIR or TMPDIR",
        fields={"field": "data_dir"},
    )


def _fits(folder: Path) -> bool:
    return len(os.fsencode(folder)) <= LONGEST


def _remembered(note: Path) -> Path | None:
    """The folder of an earlier start, if it is still there and still ours alone: who may write to the temporary
    directory may have put something else in its place after a reboot."""
    try:
        kept = Path(note.read_text())
        found = os.lstat(kept)
    except (OSError, ValueError):
        return None
    private = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and stat.S_IMODE(found.st_mode) == 0o700
    return kept if private and _fits(kept) else None
