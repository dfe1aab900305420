"""`partywall plan`: how many devices a demand needs, of which kind, cut how; or what a live router would do now."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from partywall.cli.local.extras import extra
from partywall.cli.options import command
from partywall.cli.remote.live_plan import dry_run
from partywall.cli.session import Session
from partywall.cli.values import MOST_SECONDS
from partywall.errors import InvalidInput

app = typer.Typer(help="Plan a fleet from profiles and a demand, or show a live router's plan.")

_COLUMNS = {
    "kind": "KIND",
    "device": "DEVICE",
    "start": "AT",
    "slice": "SLICE",
    "model": "MODEL",
    "batch": "BATCH",
    "processes": "PROCESSES",
    "capacity_per_s": "REQUESTS/S",
    "latency_ms": "LATENCY MS",
}


@app.callback(invoke_without_command=True)
@command
def plan_fleet(
    session: Session,
    profiles: Annotated[
        Path | None, typer.Option("--profiles", help="Folder of slice profiles, or of one folder per kind.")
    ] = None,
    demand: Annotated[Path | None, typer.Option("--demand", help="CSV model,rate_per_s,objective_ms.")] = None,
    margin: Annotated[
        float, typer.Option("--margin", help="A slice's latency may use this part of its objective.")
    ] = 0.45,
    budget_s: Annotated[float, typer.Option("--budget-s", help="Time limit of each solve.")] = 10.0,
    live: Annotated[bool, typer.Option("--dry-run", help="Ask the router (operator) what it would do now.")] = False,
) -> None:
    """Answer how many GPUs, of which kind, cut how; with --dry-run, what the live planner would do now."""
    if live:
        dry_run(session)
        return
    if profiles is None or demand is None:
        raise InvalidInput(
            "give --profiles DIR and --demand FILE to plan a fleet offline, or --dry-run to ask a live router",
            fields={"field": "profiles" if profiles is None else "demand"},
        )
    _check_between("margin", margin, 1.0)
    _check_between("budget-s", budget_s, MOST_SECONDS)
    with extra("load"):
        from loadgen.slice_profiles import read_demand, read_kinds
        from router.policy.slicing import plan_slices
    demands = read_demand(demand)
    plans = {
        kind: plan_slices(demands, settings, margin=margin, budget_s=budget_s)
        for kind, settings in read_kinds(profiles).items()
    }
    kind = min(plans, key=lambda name: (plans[name].devices, plans[name].compute_slices, name))
    best = plans[kind]
    rows = [
        {
            "kind": kind,
            "device": placed.device,
            "start": placed.start,
            "slice": int(placed.setting.size),
            "model": placed.model,
            "batch": placed.setting.batch,
            "processes": placed.setting.processes,
            "capacity_per_s": round(placed.setting.capacity_per_s, 3),
            "latency_ms": round(placed.setting.latency_ms, 3),
        }
        for placed in best.slices
    ]
    summary: dict[str, Any] = {
        "kind": kind,
        "gpus": best.devices,
        "lower_bound": best.lower_bound,
        "optimal": best.optimal,
        "compute_slices": best.compute_slices,
        "alternatives": {name: held.devices for name, held in plans.items()},
    }
    if session.printer.json:
        session.printer.record({**summary, "slices": rows})
        return
    session.printer.rows(rows, _COLUMNS, empty="nothing is asked for")
    session.printer.text(
        f"{best.devices} of {kind} (lower bound {best.lower_bound}{', optimal' if best.optimal else ''}), "
        f"{best.compute_slices} compute slices"
    )


def _check_between(option: str, value: float, most: float) -> None:
    """Above zero and at most that; NaN is neither."""
    if not 0 < value <= most:
        raise InvalidInput(
            f"--{option} must be above zero and at most {most:g}, got {value:g}", fields={"field": option}
        )
