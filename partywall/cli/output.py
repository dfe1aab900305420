"""What the command line prints: data on standard output, everything else on standard error; and its exit codes."""

from __future__ import annotations

import enum
import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from partywall import errors
from partywall.errors import PartywallError, Reason

_PIPE_WIDTH = 200


class OutputFormat(enum.StrEnum):
    TABLE = "table"
    JSON = "json"


class ExitCode(enum.IntEnum):
    """Stable: scripts rely on them."""

    OK = 0
    FAILURE = 1
    USAGE = 2
    NOT_FOUND = 3
    AUTHENTICATION = 4
    CONFLICT = 5
    UNAVAILABLE = 6
    INTERRUPTED = 130


_EXIT_CODES: Mapping[type[PartywallError], ExitCode] = {
    errors.NotFound: ExitCode.NOT_FOUND,
    errors.Unauthenticated: ExitCode.AUTHENTICATION,
    errors.PermissionDenied: ExitCode.AUTHENTICATION,
    errors.AlreadyExists: ExitCode.CONFLICT,
    errors.Conflict: ExitCode.CONFLICT,
    errors.Unavailable: ExitCode.UNAVAILABLE,
    errors.Overloaded: ExitCode.UNAVAILABLE,
    errors.DeadlineExceeded: ExitCode.UNAVAILABLE,
}
_HINTS: Mapping[Reason, str] = {
    Reason.NO_CREDENTIAL: "give --api-key-file FILE or PARTYWALL_API_KEY; operators issue keys: partywall keys issue T",
    Reason.BAD_CREDENTIAL: "check the key; operators issue a new one with `partywall keys issue T`",
    Reason.KEY_EXPIRED: "ask the operator for a new key: `partywall keys issue T`",
    Reason.KEY_REVOKED: "ask the operator for a new key: `partywall keys issue T`",
    Reason.TENANT_SUSPENDED: "the operator resumes it with `partywall tenants resume T`",
    Reason.UNREACHABLE: "start it with `partywall up --data-dir D`, or give --address / --data-dir",
    Reason.MODEL_NOT_FOUND: "list what there is with `partywall models list`",
    Reason.NOT_FOUND: "list what there is with the noun's `list` command",
    Reason.NO_PLACE: "see why with `partywall explain MODEL`, and what there is with `partywall fleet show`",
    Reason.MODEL_TOO_LARGE: "see the devices with `partywall fleet show`",
    Reason.MODEL_NOT_READY: "see why with `partywall explain MODEL`",
    Reason.NO_REPLICA: "see why with `partywall explain MODEL`",
    Reason.RATE_LIMITED: "wait, or ask the operator for more: `partywall quota set T`",
    Reason.TOO_MANY_IN_FLIGHT: "send fewer at once, or ask the operator for more: `partywall quota set T`",
    Reason.MODEL_BYTES_EXCEEDED: "delete an old version (`partywall models delete`), or ask for more quota",
    Reason.UNSAFE_FORMAT: "only data is loaded: safetensors, JSON and text",
    Reason.STORAGE_FULL: "the operator makes room in the data directory",
    Reason.INVALID_TENSOR: "see what the model takes with `partywall models show MODEL`",
    Reason.DEADLINE_EXCEEDED: "give it longer with --deadline-ms or --timeout",
    Reason.CONFLICT: "somebody changed it first: look again and repeat the command",
    Reason.ALREADY_EXISTS: "choose another name, or use the one that is there",
}


def exit_code(error: PartywallError) -> ExitCode:
    """By the nearest class in the table."""
    for cls in type(error).__mro__:
        if cls in _EXIT_CODES:
            return _EXIT_CODES[cls]
    return ExitCode.FAILURE


class Printer:
    """Tables for people, JSON for scripts. Colours and live parts only on a terminal."""

    def __init__(self, output: OutputFormat = OutputFormat.TABLE, *, color: bool = True) -> None:
        self.output = output
        self._color = color

    @property
    def json(self) -> bool:
        return self.output is OutputFormat.JSON

    @property
    def live(self) -> bool:
        """Whether progress may be drawn: on a terminal, and not for a script."""
        return sys.stderr.isatty() and not self.json

    def console(self, *, stderr: bool = False) -> Any:
        from rich.console import Console

        stream = sys.stderr if stderr else sys.stdout
        # Tables in a pipe or a log must not be folded to 80 columns.
        width = None if stream.isatty() or "COLUMNS" in os.environ else _PIPE_WIDTH
        no_color = None if self._color else True
        return Console(stderr=stderr, no_color=no_color, highlight=False, soft_wrap=True, width=width)

    def rows(self, rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str], *, empty: str) -> None:
        """A listing. `columns` maps keys to the table's headings; JSON has all keys of each row."""
        if self.json:
            _print_json(list(rows))
            return
        if not rows:
            self.note(empty)
            return
        from rich import box
        from rich.table import Table

        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for heading in columns.values():
            table.add_column(heading, overflow="fold")
        for row in rows:
            table.add_row(*(_cell(row.get(key)) for key in columns))
        self.console().print(table)

    def record(self, record: Mapping[str, Any], *, title: str = "") -> None:
        """One thing, a line per field."""
        if self.json:
            _print_json(record)
            return
        from rich.table import Table

        table = Table(box=None, show_header=False, pad_edge=False, title=title or None, title_justify="left")
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for key, value in _flat(record):
            table.add_row(key.replace("_", " "), _cell(value))
        self.console().print(table)

    def text(self, text: str) -> None:
        """Data for people on standard output."""
        self.console().print(text, markup=False)

    def note(self, text: str) -> None:
        """What happened, for people; silent for scripts."""
        if not self.json:
            self.console(stderr=True).print(text, markup=False)

    def error(self, error: PartywallError, hint: str = "", command: str = "partywall") -> None:
        """One red line, and the next step where the message does not have it itself; an object for scripts.

        `command` is whose help is named where nothing better is known.
        """
        hint = hint or error.fields.get("hint", "") or _HINTS.get(error.reason, "")
        if self.json:
            body = {
                "reason": error.reason.value,
                "message": error.message,
                "hint": hint,
                "retryable": error.retryable,
                "retry_after_s": error.retry_after_s,
                "fields": {key: value for key, value in error.fields.items() if key != "hint"},
            }
            print(json.dumps({"error": body}), file=sys.stderr)
            return
        console = self.console(stderr=True)
        console.print(f"error: {' '.join(error.message.split())}", style="red", markup=False)
        tail = error.reason.value
        if error.retry_after_s is not None:
            tail = f"{error.reason.value}, try again in {error.retry_after_s:.3g} s"
        # A message that names a command has its next step already.
        hint = hint or ("" if "`" in error.message else f"see {command} --help")
        console.print(f"hint: {hint} ({tail})" if hint else f"({tail})", style="dim", markup=False)


def _print_json(value: Any) -> None:
    # One line for scripts; people who ask for JSON on a terminal read it.
    indent = 2 if sys.stdout.isatty() else None
    sys.stdout.write(json.dumps(value, indent=indent, ensure_ascii=False) + "\n")


def _cell(value: Any) -> str:
    from rich.markup import escape

    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(_cell(item) for item in value) or "-"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={_cell(item)}" for key, item in value.items()) or "-"
    return escape(str(value))


def _flat(record: Mapping[str, Any]) -> list[tuple[str, Any]]:
    out: list[tuple[str, Any]] = []
    for key, value in record.items():
        if isinstance(value, Mapping) and value:
            out.extend((f"{key}.{inner}", item) for inner, item in value.items())
        else:
            out.append((key, value))
    return out
