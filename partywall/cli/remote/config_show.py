"""`partywall config show`: the global options as they came out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from partywall.cli.options import COMMON, command
from partywall.cli.session import Session
from partywall.cli.settings import SECRETS, Origin

app = typer.Typer(no_args_is_help=True, help="The configuration.")


@app.callback()
def _group() -> None:
    """The configuration."""


@app.command("show")
@command
def show(
    session: Session, origin: Annotated[bool, typer.Option("--origin", help="Where each value came from.")] = False
) -> None:
    """Global options after flags, environment, file and defaults. Secrets are not shown."""
    names = ("config", *COMMON)
    values = {name: _shown(name, session.settings.get(name)) for name in names}
    if not origin:
        session.printer.record(values)
        return
    origins: dict[str, Origin] = {name: session.settings.origin(name) for name in names}
    rows = [{"name": n, "value": values[n], "origin": origins[n].name.lower()} for n in names]
    session.printer.rows(rows, {"name": "NAME", "value": "VALUE", "origin": "ORIGIN"}, empty="nothing is set")


def _shown(name: str, value: Any) -> Any:
    if value is None:
        return None
    if name in SECRETS:
        return "(set)"
    return str(value) if isinstance(value, Path) else value
