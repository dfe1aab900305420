"""A data directory: where things lie in it, and what a router has to find there before it starts."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path

from isolation.vault.durable import readable_by_others
from partywall.errors import NotReady, Reason
from router.control.rpc import ADMIN_KEY_PREFIX, admin_digest

MIN_ADMIN_KEY_CHARACTERS = 40


@dataclass(frozen=True, slots=True)
class DataDir:
    """Where things lie under one data directory."""

    root: Path

    @property
    def admin_key(self) -> Path:
        return self.root / "admin.key"

    @property
    def root_key(self) -> Path:
        return self.root / "root.key"

    @property
    def keys(self) -> Path:
        return self.root / "keys"

    @property
    def ca(self) -> Path:
        return self.root / "ca"

    @property
    def state(self) -> Path:
        return self.root / "state.db"

    @property
    def audit(self) -> Path:
        return self.root / "audit.log"

    @property
    def node(self) -> Path:
        return self.root / "node"


def read_admin_digest(data: DataDir) -> bytes:
    """What the admin port compares credentials with.

    Raises:
        NotReady: There is no admin key, others may read it, or the file holds something else: an empty one would
            let everybody in.
    """
    try:
        mode = stat.S_IMODE(data.admin_key.stat().st_mode)
        key = data.admin_key.read_text(encoding="ascii").strip()
    except FileNotFoundError as failure:
        raise NotReady(
            f"{data.admin_key} is missing: `partywall init --data-dir {data.root}` makes a data directory"
        ) from failure
    except (OSError, UnicodeDecodeError) as failure:
        raise NotReady(f"{data.admin_key} cannot be read ({failure}); restore it from its backup") from failure
    if not key.startswith(ADMIN_KEY_PREFIX) or len(key) < MIN_ADMIN_KEY_CHARACTERS:
        raise NotReady(
            f"{data.admin_key} does not hold an admin key ({ADMIN_KEY_PREFIX}...); restore it from its backup"
        )
    if readable_by_others(mode):
        raise NotReady(
            f"{data.admin_key} has mode {mode:04o} and is the operator's credential: run `chmod 600` on it; if "
            "somebody may have read it, put a new key there",
            reason=Reason.WRONG_STATE,
            fields={"field": "admin_key", "path": str(data.admin_key)},
        )
    return admin_digest(key)


def check_state(data: DataDir) -> None:
    """That the database is where `init` made it: an empty one in its place would make orphans of all sealed files.

    Raises:
        NotReady: It is missing or empty.
    """
    if data.state.is_file() and not data.state.stat().st_size:
        problem = "is empty"
    elif not data.state.exists():
        problem = "is missing"
    else:
        return
    raise NotReady(
        f"{data.state} {problem}: put it back from its backup (it holds tenants, models and their wrapped keys); to "
        "start anew make another data directory with `partywall init`",
        reason=Reason.WRONG_STATE,
        fields={"field": "data_dir", "path": str(data.state)},
    )
