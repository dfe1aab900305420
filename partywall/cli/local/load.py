"""`partywall load`: put load on a router and report on it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from partywall.cli.local.extras import extra
from partywall.cli.options import command
from partywall.cli.output import ExitCode
from partywall.cli.session import Session
from partywall.cli.values import parse_duration
from partywall.errors import InvalidInput

if TYPE_CHECKING:
    from loadgen.spec import LoadSpec

load = typer.Typer(no_args_is_help=True, help="Put load on a router and report on it.")

_TENANT_HELP = (
    "One tenant's load, key=value pairs and commas: name, key-file (or key), model, one of text=FILE, npy=FILE, "
    "random=TYPE:DxDx..., then rate, arrivals (poisson, constant, gamma:CV, onoff:ON_S:OFF_S, trace:FILE), slo-ms, "
    "deadline-ms, batch, channels, input, version, trace-model, trace-window, trace-speed. Repeatable."
)
_DEFAULT_DURATION_S = 30.0


@load.command("run")
@command
def run(
    session: Session,
    tenant: Annotated[list[str] | None, typer.Option("--tenant", metavar="KEY=VALUE,...", help=_TENANT_HELP)] = None,
    spec: Annotated[Path | None, typer.Option("--spec", help="The same as a TOML file; flags win.")] = None,
    duration: Annotated[
        float | None, typer.Option("--duration", parser=parse_duration, metavar="30s", help="How long arrivals go on.")
    ] = None,
    warmup: Annotated[
        float | None, typer.Option("--warmup", parser=parse_duration, metavar="0s", help="Load before it, not counted.")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Repeats arrivals and payloads.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for report.html, report.json, requests.npz.")
    ] = None,
) -> None:
    """Send open-loop load from one or more tenants; latency counts from the intended send times."""
    with extra("load"):
        from loadgen.command import run_load, write_reports
        from loadgen.report import tables
    given = {"duration": duration, "warmup": warmup, "seed": seed}
    loaded = load_spec(session, {k: v for k, v in given.items() if v is not None}, tenant or [], spec)
    printer = session.printer
    outcome = run_load(loaded, printer.console(stderr=True), live=printer.live)
    if printer.json:
        typer.echo(outcome.report.to_json())
    else:
        for table in tables(outcome.report):
            printer.console().print(table)
    for warning in outcome.report.warnings:
        typer.echo(f"warning: {warning}", err=True)
    if out is not None:
        for path in write_reports(outcome, out):
            printer.note(f"wrote {path}")
    if outcome.stopped:
        raise typer.Exit(ExitCode.INTERRUPTED)


def load_spec(session: Session, flags: dict[str, Any], tenants: list[str], file: Path | None) -> LoadSpec:
    """Flags over the spec file over defaults; the tenants of both.

    Raises:
        InvalidInput: Names the field and the next step.
    """
    from loadgen.spec import LoadSpec, SpecFile, parse_tenant, read_spec

    found = read_spec(file) if file is not None else SpecFile()
    settings = session.settings
    ca = settings.get("tls_ca") or found.tls_ca
    duration_s = flags.get("duration", found.duration_s)
    if duration_s is None:
        duration_s = _DEFAULT_DURATION_S
    address = found.address if found.address and not settings.get("address") else settings.public_address()
    return LoadSpec(
        address=address,
        tenants=(*found.tenants, *(parse_tenant(text) for text in tenants)),
        duration_s=_above_zero("duration", duration_s),
        warmup_s=flags.get("warmup", found.warmup_s),
        seed=flags.get("seed", found.seed),
        tls_ca=None if ca is None else Path(ca),
        insecure=bool(settings.get("insecure")),
    )


def _above_zero(field: str, value: float) -> float:
    if not value > 0:
        raise InvalidInput(f"{field} must be above zero, got {value:g}", fields={"field": field})
    return value
