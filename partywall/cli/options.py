"""Options that every command takes, before the noun or after the verb."""

from __future__ import annotations

import copy
import enum
import inspect
from collections.abc import Callable, Collection
from dataclasses import fields, is_dataclass
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
        self.command = "partywall"

    @property
    def output(self) -> OutputFormat:
        return OutputFormat(self.settings.get("output") or OutputFormat.TABLE)


def command(function: Callable[Concatenate[Session, P], None]) -> Callable[..., None]:
    """Makes a typer command of a function whose first argument is the session.

    A parameter whose type is a dataclass stands for one option per field, of the field's type and default; an option
    that several of them have is given once and goes to all. The common options are added to the signature; given there
    they win over those before the noun.
    """
    hints = get_type_hints(function, include_extras=True)
    own: dict[str, inspect.Parameter] = {}
    groups: dict[str, type[Any]] = {}
    for parameter in list(inspect.signature(function).parameters.values())[1:]:
        hint = hints[parameter.name]
        if isinstance(hint, type) and is_dataclass(hint):
            groups[parameter.name] = hint
            own |= {name: one for name, one in _options_of(hint).items() if name not in own}
        else:
            own[parameter.name] = parameter.replace(annotation=hint)
    common = {name: _repeated(annotation) for name, annotation in COMMON.items() if name not in own}

    def run(**arguments: Any) -> None:
        ctx = arguments.pop("ctx")
        state: State = ctx.obj
        state.command = ctx.command_path
        for name in common:
            value = arguments.pop(name)
            if value is not None:
                state.settings = state.settings.with_flag(name, value)
        session = Session(state.settings, state.output)
        try:
            function(session, **_grouped(arguments, groups))  # type: ignore[call-arg]
        finally:
            session.close()

    keyword = inspect.Parameter.KEYWORD_ONLY
    extra = [inspect.Parameter("ctx", keyword, annotation=typer.Context)]
    extra += [inspect.Parameter(n, keyword, default=None, annotation=a) for n, a in common.items()]
    parameters = [p.replace(kind=keyword) for p in own.values()] + extra
    run.__name__, run.__qualname__, run.__doc__ = function.__name__, function.__qualname__, function.__doc__
    run.__module__ = function.__module__
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.common_options = tuple(common)  # type: ignore[attr-defined]
    return run


def _options_of(group: type[Any]) -> dict[str, inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    keyword = inspect.Parameter.KEYWORD_ONLY
    return {
        one.name: inspect.Parameter(one.name, keyword, default=one.default, annotation=hints[one.name])
        for one in fields(group)
    }


def _grouped(arguments: dict[str, Any], groups: dict[str, type[Any]]) -> dict[str, Any]:
    """The arguments with those of each dataclass gathered in one."""
    names = {parameter: [one.name for one in fields(group)] for parameter, group in groups.items()}
    inside = {name for group in names.values() for name in group}
    gathered = {
        parameter: group(**{name: arguments[name] for name in names[parameter]}) for parameter, group in groups.items()
    }
    return {**{name: value for name, value in arguments.items() if name not in inside}, **gathered}


def arguments_of(options: Any, leave_out: Collection[str] = ()) -> tuple[str, ...]:
    """Options in a dataclass as a command line that gives them to another process.

    A flag stands there where it is set; what is empty or None stays away. Paths become absolute: others may run
    elsewhere. `leave_out` names fields.
    """
    hints = get_type_hints(type(options), include_extras=True)
    found: list[str] = []
    for one in fields(options):
        value = getattr(options, one.name)
        if one.name in leave_out or value is None or value is False or value in ("", []):
            continue
        option = _spelled(get_args(hints[one.name])[1])
        if value is True:
            found.append(option)
            continue
        for item in value if isinstance(value, list) else [value]:
            found += [option, _text(item)]
    return tuple(found)


def _spelled(option: Any) -> str:
    """The first name of a `typer.Option`; inside `Annotated` it stands in the default's place."""
    names = (option.default, *(option.param_decls or ()))
    return next(name for name in names if isinstance(name, str) and name.startswith("--"))


def _text(value: Any) -> str:
    if isinstance(value, Path):
        return str(value.absolute())
    return str(value.value if isinstance(value, enum.Enum) else value)
