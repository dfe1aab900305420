"""The `partywall` command: global options, the tree of commands, and one place where errors become exit codes."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from partywall import __version__
from partywall.cli import config, options
from partywall.cli.local import audit, doctor, interference, load, plan, servers, up
from partywall.cli.options import State
from partywall.cli.output import ExitCode, OutputFormat, Printer, exit_code
from partywall.cli.remote import config_show, explain, fleet, infer, models, partitions, profile, tenants
from partywall.cli.settings import Origin, Setting, Settings
from partywall.errors import InternalError, InvalidInput, PartywallError

_ORIGINS = {
    "COMMANDLINE": Origin.FLAG,
    "PROMPT": Origin.FLAG,
    "ENVIRONMENT": Origin.ENVIRONMENT,
    "DEFAULT_MAP": Origin.FILE,
}

app = typer.Typer(
    name="partywall",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Many tenants' models on shared accelerators, with the neighbours' noise kept out.",
)
app.add_typer(tenants.tenants, name="tenants")
app.add_typer(tenants.keys, name="keys")
app.add_typer(tenants.quota, name="quota")
app.add_typer(models.models, name="models")
app.add_typer(fleet.fleet, name="fleet")
app.add_typer(partitions.partitions, name="partitions")
app.command("infer")(infer.infer)
app.add_typer(explain.requests, name="requests")
app.add_typer(explain.decisions, name="decisions")
app.command("explain")(explain.explain)
app.command("profile")(profile.profile)
app.command("init")(servers.init)
app.command("up")(up.up)
app.command("router")(servers.router)
app.command("agent")(servers.agent)
app.command("doctor")(doctor.doctor)
app.add_typer(audit.app, name="audit")
app.add_typer(config_show.app, name="config")
app.add_typer(load.load, name="load")
app.add_typer(interference.app, name="interference")
app.add_typer(plan.app, name="plan")


def _load_config(ctx: typer.Context, named: Path | None) -> Path | None:
    """Runs first: what the file says becomes the default of everything else."""
    if ctx.resilient_parsing:
        return named
    path = config.find_file(named)
    if path is not None:
        ctx.default_map = {**config.load(path, ctx.command), **(ctx.default_map or {})}
    return path


def _print_version(given: bool) -> None:
    if given:
        print(f"partywall {__version__}")
        raise typer.Exit


@app.callback()
def _globals(
    ctx: typer.Context,
    config: Annotated[
        Path | None,
        typer.Option("--config", is_eager=True, callback=_load_config, help="TOML file; also ./partywall.toml."),
    ] = None,
    data_dir: options.DataDir = None,
    address: options.Address = None,
    admin_address: options.AdminAddress = None,
    api_key: options.ApiKey = None,
    api_key_file: options.ApiKeyFile = None,
    admin_key_file: options.AdminKeyFile = None,
    tls_ca: options.TlsCa = None,
    timeout: options.Timeout = None,
    insecure: options.Insecure = None,
    no_color: options.NoColor = None,
    output: options.Output = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_print_version, help="Print the version.", allow_from_autoenv=False
        ),
    ] = False,
) -> None:
    state: State = ctx.obj
    state.debug = debug
    state.settings = Settings(
        {name: Setting(value, _origin(ctx, name)) for name, value in ctx.params.items() if name != "version"}
    )


def _origin(ctx: typer.Context, name: str) -> Origin:
    source = ctx.get_parameter_source(name)
    return Origin.DEFAULT if source is None else _ORIGINS.get(source.name, Origin.DEFAULT)


def build() -> Any:
    """The whole command tree."""
    return typer.main.get_command(app)


def run(arguments: Sequence[str], tree: Callable[[], Any] = build) -> int:
    """Runs one command line of a command tree and returns its exit code; never raises."""
    state = State()
    try:
        result = tree().main(
            args=list(arguments),
            prog_name="partywall",
            standalone_mode=False,
            obj=state,
            auto_envvar_prefix="PARTYWALL",
        )
    except PartywallError as error:
        return _report(state, arguments, error)
    except (KeyboardInterrupt, typer.Abort):
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        # The reader went away (`| head`): nothing to say, and nothing more to flush.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.FAILURE
    except Exception as failure:
        return _report_other(state, arguments, failure)
    return result if isinstance(result, int) else ExitCode.OK


def main() -> None:
    """Entry point of the `partywall` script."""
    raise SystemExit(int(run(sys.argv[1:])))


def _report(state: State, arguments: Sequence[str], error: PartywallError) -> int:
    if _debug(state, arguments):
        traceback.print_exc()
    _printer(state, arguments).error(error, command=state.command)
    return exit_code(error)


def _report_other(state: State, arguments: Sequence[str], failure: Exception) -> int:
    # typer's own errors differ in class between versions; all of them carry these two.
    describe = getattr(failure, "format_message", None)
    if describe is not None and hasattr(failure, "exit_code"):
        # An enum's refusal lists what is allowed, behind two words of no use.
        return _report_usage(state, arguments, failure, str(describe()).replace("Value error, ", ""))
    if _debug(state, arguments):
        traceback.print_exc()
    error = InternalError(f"unexpected {type(failure).__name__}: {failure}")
    _printer(state, arguments).error(error, "run it again with --debug and report what it prints")
    return ExitCode.FAILURE


def _report_usage(state: State, arguments: Sequence[str], failure: Exception, message: str) -> int:
    ctx = getattr(failure, "ctx", None)
    path = ctx.command_path if ctx is not None else "partywall"
    if type(failure).__name__ == "NoArgsIsHelpError":
        print(message, file=sys.stderr)
    else:
        _printer(state, arguments).error(InvalidInput(message), f"see {path} --help")
    return ExitCode.USAGE


def _printer(state: State, arguments: Sequence[str]) -> Printer:
    # A command line that failed to parse never set the state.
    asked = any(
        text in ("-ojson", "-o=json", "--output=json") or (text in ("-o", "--output") and following == "json")
        for text, following in zip(arguments, [*arguments[1:], ""], strict=False)
    )
    output = OutputFormat.JSON if asked else state.output
    return Printer(output, color=not state.settings.get("no_color") and "--no-color" not in arguments)


def _debug(state: State, arguments: Sequence[str]) -> bool:
    return state.debug or "--debug" in arguments


if __name__ == "__main__":
    main()
