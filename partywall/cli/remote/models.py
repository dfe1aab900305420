"""`partywall models`: a tenant's models, by its API key or by the operator with `--tenant`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from partywall.cli.options import command
from partywall.cli.output import Printer
from partywall.cli.remote.rows import model_row, version_row
from partywall.cli.remote.tenants import confirm_by_name
from partywall.cli.session import Connection, Session
from partywall.cli.values import MOST_COUNT, parse_duration, parse_option, parse_size
from partywall.client.artifact import LocalArtifact, inspect_folder
from partywall.client.flow import MODELS
from partywall.client.operations import DEFAULT_WAIT_S, manifest
from partywall.client.push import PushRequest, get_model, push_version, wait_ready
from partywall.client.uploading import OnProgress, PushProgress
from partywall.client.views import ModelInfo, model_info
from partywall.domain.names import check_model_name
from partywall.v1 import models_pb2 as pb

models = typer.Typer(no_args_is_help=True, help="Push, promote, load and look at models.")

Name = Annotated[str, typer.Argument(metavar="MODEL", help="The tenant's own name for the model.")]
Tenant = Annotated[str | None, typer.Option("--tenant", help="As the operator: whose model, on the admin port.")]
VersionNumber = Annotated[
    int, typer.Argument(metavar="VERSION", min=1, max=MOST_COUNT, help="As `models show` lists them.")
]
AnyVersion = Annotated[int, typer.Option("--version", min=0, max=MOST_COUNT, help="0: the live one.")]
Wait = Annotated[bool, typer.Option("--wait", help="Until it is ready.")]
WaitTimeout = Annotated[
    float, typer.Option("--timeout", parser=parse_duration, metavar="300s", help="How long --wait waits.")
]


@models.command("push")
@command
def push(
    session: Session,
    name: Name,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder with the model's files.")],
    engine: Annotated[str, typer.Option("--engine", "-e", help="transformers, module or identity.")],
    slo_ms: Annotated[int, typer.Option("--slo-ms", min=1, max=MOST_COUNT, help="Latency objective.")],
    option: Annotated[
        list[str] | None, typer.Option("--option", metavar="K=V", help="The engine's own; repeatable.")
    ] = None,
    share: Annotated[int, typer.Option("--share", min=0, max=100, help="Percent of a device; 0: chosen.")] = 0,
    memory: Annotated[
        int, typer.Option("--memory", parser=parse_size, metavar="SIZE", help="What it needs; 0: estimated.")
    ] = 0,
    max_batch: Annotated[
        int, typer.Option("--max-batch", min=0, max=MOST_COUNT, help="Rows in a batch; 0: the engine's.")
    ] = 0,
    side_effects: Annotated[
        bool, typer.Option("--side-effects", help="A request must never run twice: not retried, not hedged.")
    ] = False,
    cold_start: Annotated[
        bool, typer.Option("--cold-start", help="A request wakes the version when it is not resident.")
    ] = False,
    promote: Annotated[bool, typer.Option("--promote", help="Live as soon as it is ready.")] = False,
    wait: Wait = False,
    timeout: WaitTimeout = DEFAULT_WAIT_S,
    tenant: Tenant = None,
) -> None:
    """Seal a model folder on this machine and upload the ciphertext as a new version."""
    check_model_name(name)
    described = manifest(
        engine,
        slo_ms=slo_ms,
        options=dict(parse_option(text) for text in option or ()),
        share_percent=share,
        memory_bytes=memory,
        max_batch=max_batch,
        side_effects=side_effects,
        cold_start=cold_start,
    )
    artifact = inspect_folder(folder, engine, described.options)
    if artifact.skipped:
        session.printer.note(f"skipped (hidden files and folders are not pushed): {', '.join(artifact.skipped)}")
    connection = session.models_of(tenant)
    with _upload_bar(session.printer, artifact) as on_progress:
        request = PushRequest(name, artifact, described, promote, on_progress)
        info, number = connection.run(push_version(connection.operations.caller, request))
    if wait:
        info = _wait(session, connection, name, number, timeout)
    found = info.version(number)
    row = {"model": name, **(version_row(found) if found is not None else {"version": number})}
    session.printer.record({**row, "live_version": info.live_version or None})
    if not promote and info.live_version != number:
        session.printer.note(f"next: partywall models promote {name} {number}")


@models.command("list")
@command
def list_models(session: Session, tenant: Tenant = None) -> None:
    """All models of the tenant."""
    connection = session.models_of(tenant)
    rows = [model_row(model) for model in connection.run(connection.operations.models())]
    columns = {"name": "NAME", "live_version": "LIVE", "engine": "ENGINE", "state": "STATE"}
    columns |= {"replicas_ready": "READY", "slo_ms": "SLO MS", "reason": "REASON"}
    session.printer.rows(rows, columns, empty="no models yet: partywall models push NAME DIR --engine E --slo-ms N")


@models.command("show")
@command
def show(session: Session, name: Name, tenant: Tenant = None) -> None:
    """One model with its versions."""
    connection = session.models_of(tenant)
    row = model_row(connection.run(get_model(connection.operations.caller, check_model_name(name))))
    if session.printer.json:
        session.printer.record(row)
        return
    versions = row.pop("versions")
    session.printer.record(row)
    columns = {"version": "VERSION", "state": "STATE", "engine": "ENGINE", "bytes": "BYTES", "replicas_ready": "READY"}
    columns |= {"created_at": "CREATED", "reason": "REASON"}
    session.printer.rows(versions, columns, empty="no versions")
    for side in ("inputs", "outputs"):
        tensors = versions[-1][side] if versions else []
        session.printer.rows(
            tensors,
            {"name": side.upper(), "datatype": "DATATYPE", "shape": "SHAPE"},
            empty=f"{side}: known once loaded",
        )


@models.command("promote")
@command
def promote(session: Session, name: Name, version: VersionNumber, tenant: Tenant = None) -> None:
    """Make a version the live one."""
    request = pb.PromoteVersionRequest(name=check_model_name(name), version=version)
    _change(session, tenant, "PromoteVersion", request)


@models.command("rollback")
@command
def rollback(
    session: Session, name: Name, wait: Wait = False, timeout: WaitTimeout = DEFAULT_WAIT_S, tenant: Tenant = None
) -> None:
    """Make the previous live version live again; the newer one answers until that is ready."""
    connection = session.models_of(tenant)
    info = model_info(connection.call(MODELS["RollbackModel"], pb.RollbackModelRequest(name=check_model_name(name))))
    if wait:
        info = _wait(session, connection, name, info.live_version, timeout)
    _print_model(session, info)
    if info.serving_version != info.live_version:
        answers = f"version {info.serving_version} answers" if info.serving_version else "nobody answers"
        session.printer.note(f"version {info.live_version} is being loaded; {answers} until it is ready (--wait waits)")


@models.command("delete")
@command
def delete(
    session: Session,
    name: Name,
    version: Annotated[
        int, typer.Option("--version", min=0, max=MOST_COUNT, help="Only this one; 0: the model with all of them.")
    ] = 0,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    tenant: Tenant = None,
) -> None:
    """Remove a version, or a model with all its versions."""
    what = f"version {version} of model {name}" if version else f"model {name} with all its versions"
    confirm_by_name(check_model_name(name), f"This removes {what}.", yes=yes)
    request = pb.DeleteModelRequest(name=name, version=version)
    answer = session.models_of(tenant).call(MODELS["DeleteModel"], request)
    session.printer.record(
        {"model": name, "versions_removed": answer.versions_removed, "blob_bytes_removed": answer.blob_bytes_removed}
    )


@models.command("load")
@command
def load(
    session: Session,
    name: Name,
    version: AnyVersion = 0,
    wait: Wait = False,
    timeout: WaitTimeout = DEFAULT_WAIT_S,
    tenant: Tenant = None,
) -> None:
    """Make a version resident."""
    connection = session.models_of(tenant)
    request = pb.SetResidencyRequest(name=check_model_name(name), version=version, resident=True)
    info = model_info(connection.call(MODELS["SetResidency"], request))
    if wait:
        info = _wait(session, connection, name, version or info.live_version, timeout)
    _print_model(session, info)


@models.command("unload")
@command
def unload(session: Session, name: Name, version: AnyVersion = 0, tenant: Tenant = None) -> None:
    """Release a version's place on its device; it stays stored."""
    request = pb.SetResidencyRequest(name=check_model_name(name), version=version, resident=False)
    _change(session, tenant, "SetResidency", request)


def _change(session: Session, tenant: str | None, method: str, request: Any) -> None:
    _print_model(session, model_info(session.models_of(tenant).call(MODELS[method], request)))


def _print_model(session: Session, info: ModelInfo) -> None:
    row = model_row(info)
    if not session.printer.json:
        row["versions"] = [f"{v.number} ({v.state.value})" for v in info.versions]
    session.printer.record(row)


def _wait(session: Session, connection: Connection, name: str, version: int, timeout_s: float) -> ModelInfo:
    flow = wait_ready(connection.operations.caller, name, version, timeout_s)
    if not session.printer.live:
        return connection.run(flow)
    console = session.printer.console(stderr=True)
    with console.status(f"loading {name} version {version}"):
        return connection.run(flow)


@contextmanager
def _upload_bar(printer: Printer, artifact: LocalArtifact) -> Iterator[OnProgress | None]:
    if not printer.live:
        yield None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn())
    with Progress(*columns, console=printer.console(stderr=True)) as progress:
        tasks = {file.name: progress.add_task(file.name, total=file.size) for file in artifact.files}

        def on_progress(step: PushProgress) -> None:
            progress.update(tasks[step.file], completed=step.sent_bytes, total=step.total_bytes)

        yield on_progress
