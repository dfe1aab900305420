"""One of several processes of a router; the parent starts it and writes its settings to standard input."""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from isolation.sandbox.kernel import LinuxKernel
from router.policy.wants import Placing
from router.settings import Front, Rank, RouterSettings

_PATHS = ("data_dir", "tls_cert", "tls_key")


def encode(settings: RouterSettings) -> bytes:
    """Settings as JSON."""
    return json.dumps(asdict(settings), default=str).encode()


def decode(data: bytes) -> RouterSettings:
    """Settings as `encode` wrote them."""
    values: dict[str, Any] = json.loads(data)
    rank = values.pop("rank")
    folder = Path(rank["folder"]) if rank["folder"] is not None else None
    for name in _PATHS:
        values[name] = Path(values[name]) if values[name] is not None else None
    # As text they would be equal to their enum's members and yet not be them.
    values["front"], values["placing"] = Front(values["front"]), Placing(values["placing"])
    known = {field.name for field in fields(RouterSettings)}
    return RouterSettings(
        **{name: value for name, value in values.items() if name in known},
        rank=Rank(rank["index"], rank["count"], tuple(rank["links"]), folder),
    )


def main() -> int:
    """Serves until SIGTERM, or until the process that started it is gone."""
    parent = int(sys.argv[1])
    LinuxKernel().set_parent_death_signal(signal.SIGTERM)
    if os.getppid() != parent:
        return 1
    settings = decode(sys.stdin.buffer.read())
    from router.app import run

    return run(settings)


if __name__ == "__main__":
    sys.exit(main())
