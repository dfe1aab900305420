"""What a light installation answers to commands that need more."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from partywall.errors import Unsupported

_OURS = frozenset({"partywall", "router", "node_agent", "isolation", "loadgen"})


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Around imports of another package: a third-party module that is not installed names the extra that brings it.

    Raises:
        Unsupported: Says what to install.
    """
    try:
        yield
    except ModuleNotFoundError as failure:
        missing = (failure.name or "").partition(".")[0]
        if not missing or missing in _OURS:
            raise
        raise Unsupported(
            f"this command needs the Python package {missing!r}, which is not installed; "
            f"install partywall[{name}]: pip install 'partywall[{name}]'",
            fields={"field": "installation", "missing": missing, "hint": f"pip install 'partywall[{name}]'"},
        ) from failure
