"""`partywall profile` and `partywall models profile`: measure a version, and look at what was measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from partywall.cli.options import command
from partywall.cli.remote.models import AnyVersion, Name, Tenant, models
from partywall.cli.remote.rows import time_text
from partywall.cli.session import Connection, Session
from partywall.cli.values import MOST_COUNT, human_bytes
from partywall.client.flow import PROFILES, Flow, Sleep
from partywall.domain.names import check_model_name, check_name
from partywall.errors import InvalidInput, PartywallError, Reason, error_from_reason
from partywall.v1 import profiles_pb2 as pb

POLL_S = 0.3


@command
def profile(
    session: Session,
    name: Name,
    version: AnyVersion = 0,
    node: Annotated[str, typer.Option("--node", help="As the operator: where; else where the version stands.")] = "",
    quick: Annotated[bool, typer.Option("--quick", help="Few and short runs: a first guess in seconds.")] = False,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="On a busy device too; the noise is measured along.")
    ] = False,
    restart: Annotated[bool, typer.Option("--restart", help="Anew, instead of going on where it broke off.")] = False,
    shares: Annotated[
        str, typer.Option("--shares", metavar="25,50,...", help="In percent; chosen from the device.")
    ] = "",
    batch: Annotated[
        int, typer.Option("--batch", min=1, max=MOST_COUNT, help="Rows of the batches beside probes.")
    ] = 1,
    tenant: Tenant = None,
) -> None:
    """Measure what a version costs alone and beside probes; about twenty short runs, resumable."""
    check_model_name(name)
    settings = pb.ProfileSettings(quick=quick, anyway=anyway, restart=restart, batch=batch, shares=_shares(shares))
    request = pb.ProfileModelRequest(
        name=name, version=version, node=check_name(node, "node") if node else "", settings=settings
    )
    connection = session.models_of(tenant)
    answer = connection.call(PROFILES["ProfileModel"], request)
    try:
        with _bar(session, name) as on_progress:
            answer = connection.run(_follow(connection, name, answer, on_progress))
    except KeyboardInterrupt:
        connection.call(PROFILES["CancelProfile"], pb.CancelProfileRequest(name=name, version=answer.version))
        session.printer.note("stopped; the same command goes on from here")
        raise
    _print(session, name, answer)


@models.command("profile")
@command
def show_profile(session: Session, name: Name, version: AnyVersion = 0, tenant: Tenant = None) -> None:
    """What is known of a version's cost."""
    request = pb.GetProfileRequest(name=check_model_name(name), version=version)
    _print(session, name, session.models_of(tenant).call(PROFILES["GetProfile"], request, idempotent=True))


def _follow(
    connection: Connection, name: str, answer: pb.GetProfileResponse, on_progress: Callable[[pb.ProfileJobStatus], None]
) -> Flow[pb.GetProfileResponse]:
    request = pb.GetProfileRequest(name=name, version=answer.version)
    while answer.job.state == pb.PROFILE_STATE_RUNNING:
        on_progress(answer.job)
        yield Sleep(POLL_S)
        answer = yield from connection.operations.caller.call(PROFILES["GetProfile"], request, idempotent=True)
    on_progress(answer.job)
    if answer.job.state == pb.PROFILE_STATE_FAILED:
        raise _failure(answer.job)
    return answer


def _failure(job: pb.ProfileJobStatus) -> PartywallError:
    reason = Reason(job.reason) if job.reason in set(Reason) else Reason.INTERNAL
    return error_from_reason(reason, job.message)


def _shares(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isdecimal() and 1 <= int(part) <= 100 for part in parts):
        raise InvalidInput(
            f"--shares must be whole percents from 1 to 100 with commas, got {text!r}", fields={"field": "shares"}
        )
    return [int(part) for part in parts]


@contextmanager
def _bar(session: Session, name: str) -> Iterator[Callable[[pb.ProfileJobStatus], None]]:
    if not session.printer.live:
        yield lambda job: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=session.printer.console(stderr=True)) as progress:
        task = progress.add_task(f"profiling {name}", total=None)

        def on_progress(job: pb.ProfileJobStatus) -> None:
            label = f"profiling {name}: {job.label}" if job.label else f"profiling {name}"
            progress.update(task, completed=job.done, total=job.total or None, description=label)

        yield on_progress


def _print(session: Session, name: str, answer: pb.GetProfileResponse) -> None:
    bases = {b.device_type: b for b in answer.basis}
    records = [profile_record(record, bases.get(record.device_type)) for record in answer.records]
    if session.printer.json:
        session.printer.record({"model": name, "version": answer.version, "profiles": records})
        return
    if not records:
        session.printer.note(f"no profile yet: partywall profile {name}")
    for record in records:
        solo, curves = record.pop("solo"), record.pop("curves")
        record["memory"] = human_bytes(record.pop("memory_bytes"))
        session.printer.record({"model": name, "version": answer.version, **record})
        columns = {"share_percent": "SHARE %", "rows": "ROWS", "latency_ms": "ALONE MS"}
        session.printer.rows(solo, columns, empty="no solo runs yet")
        columns = {"probe": "PROBE", "own_percent": "OWN %", "probe_percent": "PROBE %"}
        columns |= {"sensitivity": "SLOWS THE MODEL", "pressure": "IS SLOWED BY IT"}
        session.printer.rows(curves, columns, empty="no co-runs: the device has no two shares that fit side by side")


def profile_record(record: pb.ProfileRecord, basis: pb.PredictionBasis | None = None) -> dict[str, Any]:
    """One type of device, as `-o json` prints it."""
    found = record.profile
    pressure = {(p.probe, p.own_percent, p.probe_percent): p.slowdown for p in found.pressure}
    return {
        "device_type": record.device_type,
        "node": record.node,
        "complete": record.HasField("profile"),
        "runs": len(record.runs),
        "settings": record.settings,
        "measured_at": time_text(record.at),
        "batch": found.batch,
        "memory_bytes": found.memory_bytes,
        "load_seconds": round(found.load_seconds, 3),
        "input_bytes": found.input_bytes,
        "output_bytes": found.output_bytes,
        "spread": round(found.spread, 4),
        "predicted_from": basis.basis if basis is not None else "",
        "predicted_from_reason": basis.reason if basis is not None else "",
        "solo": [
            {"rows": p.rows, "share_percent": p.share_percent, "latency_ms": round(p.latency_ms, 4)} for p in found.solo
        ],
        "curves": [
            {
                "probe": p.probe,
                "own_percent": p.own_percent,
                "probe_percent": p.probe_percent,
                "sensitivity": round(p.slowdown, 4),
                "pressure": round(pressure[p.probe, p.own_percent, p.probe_percent], 4),
            }
            for p in found.sensitivity
        ],
    }
