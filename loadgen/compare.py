"""Several policies on the same arrivals: rows, JSON, plots."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadgen.simulate import Outcome, PolicyName, read_arrivals, read_models, simulate
from loadgen.world import Hardware
from partywall.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class Row:
    """One policy at one objective scale."""

    policy: PolicyName
    slo_scale: float
    outcome: Outcome

    def as_dict(self) -> dict[str, Any]:
        """Flat, for tables and JSON."""
        return {"policy": self.policy.value, "slo_scale": self.slo_scale, **dataclasses.asdict(self.outcome)}


def compare(
    arrivals: Path,
    models: Path,
    hardware: Hardware,
    policies: Sequence[PolicyName],
    slo_scales: Sequence[float],
    *,
    batching: bool = True,
    swap: bool = True,
    seed: int = 0,
) -> list[Row]:
    """Runs every policy at every objective scale on the same arrivals."""
    rows = []
    for scale in slo_scales:
        served = read_models(models, scale)
        record = read_arrivals(arrivals, served)
        for policy in policies:
            result = simulate(record, served, hardware, policy, batching=batching, swap=swap, seed=seed)
            rows.append(Row(policy, scale, result))
    return rows


def write(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Writes compare.json, attainment.svg and p99.svg into a folder, made if absent; gives the paths.

    Raises:
        InvalidInput: The folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        record = folder / "compare.json"
        record.write_text(json.dumps([row.as_dict() for row in rows], indent=1) + "\n")
        return [
            record,
            _plot(rows, "attainment", "requests in time / all", folder / "attainment.svg", logarithmic=False),
            _plot(rows, "p99_ms", "p99 of served, ms", folder / "p99.svg", logarithmic=True),
        ]
    except OSError as error:
        raise InvalidInput(f"--out {folder}: cannot be written: {error.strerror}", fields={"field": "out"}) from error


def _plot(rows: Sequence[Row], key: str, label: str, path: Path, *, logarithmic: bool) -> Path:
    """Bars for one objective scale, lines over several."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.6, 3.6), layout="constrained")
    axes = figure.subplots()
    scales = sorted({row.slo_scale for row in rows})
    names = list(dict.fromkeys(row.policy.value for row in rows))
    values = {(row.policy.value, row.slo_scale): row.as_dict()[key] for row in rows}
    if len(scales) == 1:
        heights = [values[name, scales[0]] or 0.0 for name in names]
        axes.bar(names, heights, color=["#1b6ca8" if n == PolicyName.PARTYWALL else "#9aa5b1" for n in names])
        axes.tick_params(axis="x", rotation=20)
    else:
        for name in names:
            heavy = name == PolicyName.PARTYWALL
            axes.plot(scales, [values[name, s] for s in scales], marker="o", lw=2.4 if heavy else 1.2, label=name)
        axes.set_xlabel("objective / latency")
        axes.legend(fontsize="small")
    if logarithmic:
        axes.set_yscale("log")
    axes.set_ylabel(label)
    axes.grid(axis="y", alpha=0.3)
    figure.savefig(path, format="svg")
    return path
