"""`partywall load run`: from a spec to a report."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table

from loadgen import payloads
from loadgen.arrivals import FloatArray
from loadgen.html import write_html
from loadgen.payloads import Addressee
from loadgen.report import Report, make_report, write_columns, write_json
from loadgen.results import Fate, Requests
from loadgen.runner import OpenLoopRun, Stream
from loadgen.spec import LoadSpec, TenantSpec
from loadgen.targets import Target
from partywall.client.endpoint import open_endpoint
from partywall.errors import InvalidInput

_REFRESH_S = 0.25


@dataclass(frozen=True, slots=True)
class LoadOutcome:
    """What a run left: the report, and the columns behind it without the warm-up."""

    report: Report
    requests: tuple[Requests, ...]
    stopped: bool


def run_load(spec: LoadSpec, console: Console, *, live: bool) -> LoadOutcome:
    """Runs a load to its end on an event loop of its own; Ctrl-C ends it early, with a report.

    Args:
        live: Whether to draw counts that move.

    Raises:
        PartywallError: The spec is not usable, or nobody answers.
    """
    import uvloop

    return uvloop.run(run_load_async(spec, console, live=live))


def write_reports(outcome: LoadOutcome, folder: Path) -> tuple[Path, Path, Path]:
    """Writes report.html, report.json and requests.npz into a folder, which is made if absent.

    Raises:
        InvalidInput: The folder cannot be written.
    """
    paths = folder / "report.html", folder / "report.json", folder / "requests.npz"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_html(outcome.report, outcome.requests, paths[0])
        write_json(outcome.report, paths[1])
        write_columns(outcome.requests, paths[2])
    except OSError as error:
        raise InvalidInput(f"--out {folder}: cannot be written: {error.strerror}", fields={"field": "out"}) from error
    return paths


async def run_load_async(spec: LoadSpec, console: Console, *, live: bool) -> LoadOutcome:
    """`run_load` on the caller's loop, which must run in the main thread."""
    async with contextlib.AsyncExitStack() as stack:
        streams = []
        for tenant in spec.tenants:
            endpoint = open_endpoint(
                spec.address, credential=tenant.api_key(), tls_ca=spec.tls_ca, insecure=spec.insecure
            )
            target = await stack.enter_async_context(Target(endpoint, tenant.channels))
            await target.connect()
            streams.append(await _stream(spec, tenant, target))
        console.print(f"seed {spec.seed}: {sum(len(s.arrivals_s) for s in streams):,} requests to {spec.address}")
        run = OpenLoopRun(streams)
        with _stop_on_interrupt(run):
            watcher = asyncio.ensure_future(_watch(run, console, live))
            try:
                result = await run.run()
            finally:
                watcher.cancel()
                await asyncio.wait([watcher], timeout=1.0)
    requests = tuple(r.after(spec.warmup_s) for r in result.requests)
    report = make_report(requests, spec.duration_s, _settings(spec))
    return LoadOutcome(report, requests, result.stopped)


async def _stream(spec: LoadSpec, tenant: TenantSpec, target: Target) -> Stream:
    times_s: FloatArray = tenant.process().times_s(tenant.rng(spec.seed, "arrivals"), spec.warmup_s + spec.duration_s)
    if not len(times_s):
        raise tenant.bad("rate", f"gives no request in {spec.duration_s:g} s; raise it or the duration")
    return Stream(
        name=tenant.name,
        call=target.call,
        payloads=await _payloads(spec, tenant, target),
        arrivals_s=times_s,
        objective_ms=tenant.slo_ms,
        deadline_s=tenant.deadline_ms / 1e3,
    )


async def _payloads(spec: LoadSpec, tenant: TenantSpec, target: Target) -> list[bytes]:
    declared = await target.inputs(tenant.model, tenant.version)
    wanted = [t for t in declared if t.name == tenant.input] if tenant.input else list(declared)
    if len(wanted) != 1 and not (tenant.input and not declared):
        known = ", ".join(t.name for t in declared) or "any (the model is open)"
        raise tenant.bad("input", f"must name one input of {tenant.model}; it takes: {known}")
    to = Addressee(tenant.model, tenant.input or wanted[0].name, tenant.version)
    rng = tenant.rng(spec.seed, "payloads")
    if tenant.text is not None:
        return payloads.text_file(to, tenant.text, tenant.batch, rng)
    if tenant.npy is not None:
        return payloads.npy_file(to, tenant.npy, tenant.batch, rng)
    datatype, shape = tenant.random_tensor()
    if not (datatype and shape) and not wanted:
        raise tenant.bad("random", f"needs TYPE:DxD...: {tenant.model} declares no inputs to take it from")
    return payloads.random_tensor(
        to, datatype or wanted[0].datatype, shape or payloads.concrete_shape(wanted[0], tenant.batch), rng
    )


@contextlib.contextmanager
def _stop_on_interrupt(run: OpenLoopRun) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, run.stop)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGINT)


async def _watch(run: OpenLoopRun, console: Console, live: bool) -> None:
    """Counts that move on a terminal; silence elsewhere."""
    if not live:
        return
    with Live(_progress_table(run), console=console, auto_refresh=False, transient=True) as shown:
        while True:
            await asyncio.sleep(_REFRESH_S)
            shown.update(_progress_table(run), refresh=True)


def _progress_table(run: OpenLoopRun) -> Table:
    out = Table("tenant", box=None)
    for name in ("planned", "served", "refused", "failed", "unsent", "under way"):
        out.add_column(name, justify="right")
    for p in run.progress():
        out.add_row(p.name, *(f"{v:,}" for v in (p.planned, *(p.counts[fate] for fate in Fate), p.outstanding)))
    return out


def _settings(spec: LoadSpec) -> dict[str, object]:
    """What repeats the run; keys stay out of it."""
    tenants = {
        t.name: {
            "model": t.model,
            "arrivals": t.arrivals,
            "rate": t.rate,
            "slo_ms": t.slo_ms,
            "deadline_ms": t.deadline_ms,
            "batch": t.batch,
            "channels": t.channels,
            "source": f"text:{t.text}" if t.text else f"npy:{t.npy}" if t.npy else f"random:{t.random}",
        }
        for t in spec.tenants
    }
    return {
        "address": spec.address,
        "seed": spec.seed,
        "duration_s": spec.duration_s,
        "warmup_s": spec.warmup_s,
        "tenants": tenants,
    }
