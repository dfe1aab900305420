"""The highest leader epoch this agent has obeyed, kept across restarts: a stale leader finds no hearing."""

from __future__ import annotations

import os
from pathlib import Path

from partywall.errors import NotReady, Reason


class EpochFile:
    """One number in one file, replaced whole. Satisfies `node_agent.link.EpochGuard`."""

    def __init__(self, path: Path) -> None:
        """Raises NotReady where the file holds something else: no epoch would obey anybody, stale leaders too."""
        self._path = path
        self._seen = _read(path) if path.exists() else 0

    @property
    def seen(self) -> int:
        return self._seen

    def accept(self, epoch: int) -> bool:
        """Whether commands of this epoch may be obeyed; a higher one is remembered durably first."""
        if epoch < self._seen:
            return False
        if epoch > self._seen:
            fresh = self._path.with_name(f".{self._path.name}.new")
            with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out:
                out.write(str(epoch))
                out.flush()
                os.fsync(out.fileno())
            fresh.replace(self._path)
            self._seen = epoch
        return True


def _read(path: Path) -> int:
    text = path.read_bytes()
    if not text.strip().isdigit():
        raise NotReady(
            f"{path} does not hold the last leader's epoch: remove it when no router but the present one is running",
            reason=Reason.WRONG_STATE,
            fields={"field": "data_dir", "path": str(path)},
        )
    return int(text)
