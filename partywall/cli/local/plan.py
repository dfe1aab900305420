"""`partywall plan`: how many devices a demand needs, of which kind, cut how. Offline, from profiles."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from partywall.cli.local.extras import extra
from partywall.cli.options import command
from partywall.cli.session import Session

app = typer.Typer(help="Plan a fleet from profiles and a demand.")

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
    profiles: Annotated[Path, typer.Option("--profiles", help="Folder of slice profiles, or of one folder per kind.")],
    demand: Annotated[Path, typer.Option("--demand", help="CSV model,rate_per_s,objective_ms.")],
    margin: Annotated[
        float, typer.Option("--margin", help="A slice's latency may use this part of its objective.")
    ] = 0.45,
    budget_s: Annotated[float, typer.Option("--budget-s", help="Time limit of each solve.")] = 10.0,
) -> None:
    """Answer how many GPUs, of which kind, cut how."""
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
