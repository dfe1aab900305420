"""The TOML configuration file: global options at the top, a command's own in a table of its name.

data_dir = "/srv/partywall"
[up]
listen = "127.0.0.1:9001"
queue = "edf"
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from partywall.cli.settings import SECRETS
from partywall.errors import InvalidInput

_NOT_IN_FILE = frozenset({"config", "help", "version", "install_completion", "show_completion"})


def default_paths() -> tuple[Path, ...]:
    """Where a file is looked for when none is named."""
    return (Path("partywall.toml"), Path.home() / ".config" / "partywall" / "config.toml")


def find_file(named: Path | None) -> Path | None:
    """The file to read, or None.

    Raises:
        InvalidInput: The named file is not there.
    """
    if named is not None:
        if not named.is_file():
            raise InvalidInput(f"config {str(named)!r} does not exist", fields={"field": "config"})
        return named
    return next((path for path in default_paths() if path.is_file()), None)


def load(path: Path, command: Any) -> dict[str, Any]:
    """Reads a file and checks its keys against the command tree.

    Args:
        command: The root command as typer builds it.

    Raises:
        InvalidInput: Not TOML, or a key that no command has; the message names it.
    """
    try:
        values = tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as failure:
        raise InvalidInput(f"config {str(path)!r} cannot be read: {failure}", fields={"field": "config"}) from failure
    _check(values, command, str(path), ())
    return values


def command_keys(command: Any) -> set[str]:
    """The options a command can take from the file."""
    # Options repeated after the sub-command for convenience belong to the top of the file.
    hidden = _NOT_IN_FILE | SECRETS | frozenset(getattr(command.callback, "common_options", ()))
    return {p.name for p in command.params if p.param_type_name == "option"} - hidden


def _check(values: Mapping[str, Any], command: Any, path: str, at: tuple[str, ...]) -> None:
    keys = command_keys(command)
    commands: Mapping[str, Any] = getattr(command, "commands", {})
    for key, value in values.items():
        if key in commands and isinstance(value, dict):
            _check(value, commands[key], path, (*at, key))
        elif key not in keys:
            raise _unknown(".".join((*at, key)), key, {*keys, *commands}, path)


def _unknown(full: str, key: str, known: set[str], path: str) -> InvalidInput:
    if key in SECRETS:
        message = f"config {path!r}: key {full!r} would hold a secret; use api_key_file or PARTYWALL_API_KEY"
        return InvalidInput(message, fields={"field": full})
    close = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"known here: {', '.join(sorted(known))}"
    return InvalidInput(f"config {path!r}: unknown key {full!r}", fields={"field": full, "hint": hint})
