"""`partywall load simulate` and `load compare`: schedulers over simulated devices, in virtual time."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from partywall.cli.local.extras import extra
from partywall.cli.options import command
from partywall.cli.session import Session
from partywall.errors import InvalidInput

if TYPE_CHECKING:
    from loadgen.world import Hardware

Arrivals = Annotated[Path, typer.Option("--arrivals", help="CSV seconds,model: seconds since the start.")]
Models = Annotated[Path, typer.Option("--models", help="JSON list of {name, weights_gb, latency_ms}.")]
Gpus = Annotated[int, typer.Option("--gpus", min=1, max=100_000, help="How many devices.")]
GpuMemoryGb = Annotated[float, typer.Option("--gpu-memory-gb", help="Memory for weights on each.")]
LoadGbPerS = Annotated[float, typer.Option("--load-gb-per-s", help="Rate of each device's one copy engine.")]
NoBatching = Annotated[bool, typer.Option("--no-batching", help="One request at a time.")]
NoSwap = Annotated[bool, typer.Option("--no-swap", help="Only what the first plan loaded.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Repeats a run.")]

_COLUMNS = {
    "policy": "POLICY",
    "slo_scale": "SLO SCALE",
    "attainment": "ATTAINMENT",
    "goodput": "GOODPUT/S",
    "p99_ms": "P99 MS",
    "refused": "REFUSED",
    "gpu_seconds": "GPU S",
}


@command
def simulate(
    session: Session,
    arrivals: Arrivals,
    models: Models,
    gpus: Gpus,
    gpu_memory_gb: GpuMemoryGb,
    slo_scale: Annotated[float, typer.Option("--slo-scale", help="Objective = this x latency_ms.")],
    policy: Annotated[
        str,
        typer.Option(
            "--policy",
            help="partywall, round-robin, least-loaded, dedicated, gpulet, clockwork, shepherd or alpaserve-sr.",
        ),
    ] = "partywall",
    load_gb_per_s: LoadGbPerS = 25.0,
    no_batching: NoBatching = False,
    no_swap: NoSwap = False,
    seed: Seed = 0,
) -> None:
    """Replay arrivals through a scheduling policy over simulated devices."""
    with extra("load"):
        from loadgen.simulate import read_arrivals, read_models
        from loadgen.simulate import simulate as run
    name = _policy(policy)
    hardware = _hardware(gpus, gpu_memory_gb, load_gb_per_s)
    served = read_models(models, slo_scale)
    record = read_arrivals(arrivals, served)
    outcome = run(record, served, hardware, name, batching=not no_batching, swap=not no_swap, seed=seed)
    session.printer.record(dataclasses.asdict(outcome))


@command
def compare(
    session: Session,
    arrivals: Arrivals,
    models: Models,
    gpus: Gpus,
    gpu_memory_gb: GpuMemoryGb,
    slo_scale: Annotated[list[float], typer.Option("--slo-scale", help="Objective = this x latency_ms; repeatable.")],
    policy: Annotated[list[str] | None, typer.Option("--policy", help="Repeatable; default: all.")] = None,
    load_gb_per_s: LoadGbPerS = 25.0,
    no_batching: NoBatching = False,
    no_swap: NoSwap = False,
    seed: Seed = 0,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for compare.json and plots (SVG).")] = None,
) -> None:
    """Run several policies on the same arrivals."""
    with extra("load"):
        from loadgen.compare import compare as run
        from loadgen.compare import write
        from loadgen.simulate import PolicyName
    names = [_policy(name) for name in policy] if policy else list(PolicyName)
    hardware = _hardware(gpus, gpu_memory_gb, load_gb_per_s)
    switches = {"batching": not no_batching, "swap": not no_swap}
    rows = run(arrivals, models, hardware, names, slo_scale, seed=seed, **switches)
    if out is not None:
        for path in write(rows, out):
            session.printer.note(f"wrote {path}")
    session.printer.rows([row.as_dict() for row in rows], _COLUMNS, empty="nothing was run")


def _hardware(gpus: int, gpu_memory_gb: float, load_gb_per_s: float) -> Hardware:
    from loadgen.world import Hardware

    for option, value in (("gpu-memory-gb", gpu_memory_gb), ("load-gb-per-s", load_gb_per_s)):
        if not 0 < value < math.inf:
            raise InvalidInput(
                f"--{option} must be a finite number above zero, got {value:g}", fields={"field": option}
            )
    return Hardware(gpus, gpu_memory_gb, load_gb_per_s)


def _policy(name: str) -> Any:
    from loadgen.simulate import PolicyName

    try:
        return PolicyName(name)
    except ValueError as error:
        raise InvalidInput(
            f"--policy {name!r} is not known; use one of {', '.join(p.value for p in PolicyName)}",
            fields={"field": "policy"},
        ) from error
