"""Options that every command takes, before the noun or after the verb."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Concatenate, ParamSpec, get_args, get_type_hints

import typer

from partywall.cli.output import OutputFormat
from partywall.cli.session import Session
from partywall.cli.settings import Settings
from partywall.cli.values import parse_duration

P = ParamSpec("P")

PANEL = "Connection and output"

DataDir = Annotated[
    Path | None, typer.Option("--data-dir", help="Data directory of a local instance.", rich_help_panel=PANEL)
]
Address = Annotated[
    str | None, typer.Option("--address", help="Public port, host:port (https:// for TLS).", rich_help_panel=PANEL)
]
AdminAddress = Annotated[
    str | None, typer.Option("--admin-address", help="Admin port, host:port.", rich_help_panel=PANEL)
]
ApiKey = Annotated[
    str | None,
    typer.Option("--api-key", help="A tenant's key; prefer --api-key-file.", rich_help_panel=PANEL, show_default=False),
]
ApiKeyFile = Annotated[
    Path | None, typer.Option("--api-key-file", help="File with a tenant's key.", rich_help_panel=PANEL)
]
AdminKeyFile = Annotated[
    Path | None, typer.Option("--admin-key-file", help="File with the operator's key.", rich_help_panel=PANEL)
]
TlsCa = Annotated[
    Path | None, typer.Option("--tls-ca", help="PEM certificates to trust; means TLS.", rich_help_panel=PANEL)
]
Timeout = Annotated[
    float | None,
    typer.Option("--timeout", help="For each call, e.g. 30s.", parser=parse_duration, rich_help_panel=PANEL),
]
Insecure = Annotated[
    bool | None,
    typer.Option("--insecure", help="Allow a key in plaintext to another machine.", rich_help_panel=PANEL),
]
NoColor = Annotated[bool | None, typer.Option("--no-color", help="No colours.", rich_help_panel=PANEL)]
Output = Annotated[
    OutputFormat | None,
    typer.Option("--output", "-o", help="table or json.", rich_help_panel=PANEL, case_sensitive=False),
]

COMMON: dict[str, Any] = {
    "data_dir": DataDir,
    "address": Address,
    "admin_address": AdminAddress,
    "api_key": ApiKey,
    "api_key_file": ApiKeyFile,
    "admin_key_file": AdminKeyFile,
    "tls_ca": TlsCa,
    "timeout": Timeout,
    "insecure": Insecure,
    "no_color": NoColor,
    "output": Output,
}


def _repeated(annotation: Any) -> Any:
    """The same option after the verb: only for the command line, the environment belongs to the one before the noun."""
    value_type, option = get_args(annotation)
    option = copy.copy(option)
    option.allow_from_autoenv = False
    option.show_envvar = False
    return Annotated[value_type, option]


class State:
    """Of one invocation: what was given before the noun, then the whole. `main` reads it to print errors."""

    def __init__(self) -> None:
        self.settings = Settings()
        self.debug = False

    @property
    def output(self) -> OutputFormat:
        return OutputFormat(self.settings.get("output") or OutputFormat.TABLE)


def command(function: Callable[Concatenate[Session, P], None]) -> Callable[..., None]:
    """Makes a typer command of a function whose first argument is the session.

    The common options are added to its signature; given there they win over those before the noun.
    """
    hints = get_type_hints(function, include_extras=True)
    own = [p.replace(annotation=hints[p.name]) for p in list(inspect.signature(function).parameters.values())[1:]]
    taken = {p.name for p in own}
    common = {name: _repeated(annotation) for name, annotation in COMMON.items() if name not in taken}

    def run(**arguments: Any) -> None:
        state: State = arguments.pop("ctx").obj
        for name in common:
            value = arguments.pop(name)
            if value is not None:
                state.settings = state.settings.with_flag(name, value)
        session = Session(state.settings, state.output)
        try:
            function(session, **arguments)  # type: ignore[call-arg]
        finally:
            session.close()

    keyword = inspect.Parameter.KEYWORD_ONLY
    extra = [inspect.Parameter("ctx", keyword, annotation=typer.Context)]
    extra += [inspect.Parameter(n, keyword, default=None, annotation=a) for n, a in common.items()]
    parameters = [p.replace(kind=keyword) for p in own] + extra
    run.__name__, run.__qualname__, run.__doc__ = function.__name__, function.__qualname__, function.__doc__
    run.__module__ = function.__module__
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.common_options = tuple(common)  # type: ignore[attr-defined]
    return run
