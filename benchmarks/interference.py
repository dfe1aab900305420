"""How well neighbours' cost is predicted on the H100 data set, as figures, a page and plots.

Run: python benchmarks/interference.py [--plots docs/results/] [--data benchmarks/data/h100-colocation.json]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from isolation.interference import dataset, plots
from isolation.interference.evaluate import Evaluation, Judged, Predictor, evaluate
from isolation.interference.report import as_json, as_table
from isolation.interference.rows import Group
from isolation.interference.splits import Split, Trial, one_file

DATA = Path(__file__).parent / "data" / "h100-colocation.json"
_PAGE = "interference.md"


def measure(data: Path = DATA, split: Split = Split.MODEL_OUT) -> Mapping[str, Any]:
    """The evaluation as JSON, with the seconds that it took."""
    started = time.monotonic()
    found = as_json(evaluate(one_file(dataset.load(data), split)))
    return {**found, "seconds": round(time.monotonic() - started, 1)}


def write(folder: Path, data: Path = DATA) -> None:
    """Plots (SVG) and tables into `folder`; the page between its markers is replaced, the rest of it kept."""
    measurements = dataset.load(data)
    trial = one_file(measurements, Split.MODEL_OUT)
    models_out = evaluate(trial)
    pairs_out = evaluate(one_file(measurements, Split.PAIR_OUT))
    folder.mkdir(parents=True, exist_ok=True)
    plots.sensitivity_curves(trial.study.atlas, folder / "interference-sensitivity.svg")
    plots.predicted_against_measured(models_out, folder / "interference-predicted.svg")
    plots.coverage(models_out, folder / "interference-coverage.svg")
    _replace(folder / _PAGE, _tables(trial, models_out, pairs_out))


def _tables(trial: Trial, models_out: Evaluation, pairs_out: Evaluation) -> str:
    pairs = [j for j in models_out.judged if j.group is Group.PAIRS]
    blocks = [
        "## Leave-model-out",
        _code(as_table(models_out)),
        "## Leave-pair-out",
        _code(as_table(pairs_out)),
        "## Residuals by held-out model (pairs, percent; bias is predicted over measured)",
        _residuals({name: [j for j in pairs if name in j.held_out] for name in sorted({j.held_out[0] for j in pairs})}),
        "## Residuals by the resource that the neighbour presses most (pairs, percent)",
        _residuals(_by_resource(trial, pairs)),
        "## Residuals by shares, victim/neighbour (pairs, percent)",
        _residuals(_by_shares(pairs)),
    ]
    return "\n\n".join(blocks)


def _by_resource(trial: Trial, judged: Sequence[Judged]) -> dict[str, list[Judged]]:
    atlas = trial.study.atlas
    pressing = np.einsum("wngr,gr->nr", atlas.blends, atlas.sensitivity[: atlas.models].mean(axis=0))
    found: dict[str, list[Judged]] = {}
    for j in judged:
        top = atlas.probes[int(np.argmax(pressing[atlas.index(j.row.neighbours[0].name)]))]
        found.setdefault(top.resource.value, []).append(j)
    return found


def _by_shares(judged: Sequence[Judged]) -> dict[str, list[Judged]]:
    found: dict[str, list[Judged]] = {}
    for j in judged:
        found.setdefault(f"{j.row.victim.share_percent}/{j.row.neighbours[0].share_percent}", []).append(j)
    return dict(sorted(found.items()))


def _residuals(groups: Mapping[str, Sequence[Judged]]) -> str:
    lines = ["| | rows | p50 | p90 | max | bias | constant p90 |", "| --- | --- | --- | --- | --- | --- | --- |"]
    for name, judged in groups.items():
        errors = 100 * np.array([j.error(Predictor.PARTYWALL) for j in judged])
        constant = 100 * np.array([j.error(Predictor.CONSTANT) for j in judged])
        bias = 100 * np.mean([j.predicted[Predictor.PARTYWALL] / j.row.slowdown - 1 for j in judged])
        p50, p90, worst = np.quantile(errors, [0.5, 0.9, 1.0])
        cells = f"{p50:.1f} | {p90:.1f} | {worst:.1f} | {bias:+.1f} | {np.quantile(constant, 0.9):.1f}"
        lines.append(f"| {name} | {len(judged)} | {cells} |")
    return "\n".join(lines)


def _code(text: str) -> str:
    return f"```text\n{text}\n```"


def _replace(page: Path, tables: str) -> None:
    start, end = "<!-- generated -->", "<!-- end of generated -->"
    text = page.read_text() if page.exists() else f"# Interference: results\n\n{start}\n{end}\n"
    before, _, rest = text.partition(start)
    _, _, after = rest.partition(end)
    page.write_text(f"{before}{start}\n\n{tables}\n\n{end}{after}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, default=DATA, help="measurement file")
    parser.add_argument("--plots", type=Path, help="folder for plots and tables")
    options = parser.parse_args()
    if options.plots is not None:
        write(options.plots, options.data)
    else:
        print(json.dumps(measure(options.data), indent=2))


if __name__ == "__main__":
    main()
