"""Plots of an evaluation: sensitivity curves, predicted against measured, coverage. Needs matplotlib."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from isolation.interference.atlas import Atlas
from isolation.interference.evaluate import Evaluation, Predictor
from isolation.interference.rows import Group

_METADATA = {"Date": None}


def sensitivity_curves(atlas: Atlas, path: Path) -> None:
    """Slowdown of each model at 25 % beside each flat-out probe, by the probe's share."""
    points = [c for c, (own, _) in enumerate(atlas.grid) if own == min(own for own, _ in atlas.grid)]
    flat_out = [r for r, p in enumerate(atlas.probes) if p.level == 1.0]
    figure = Figure(figsize=(3.0 * len(flat_out), 3.2), layout="constrained")
    axes = figure.subplots(1, len(flat_out), sharey=True, squeeze=False)[0]
    for axis, r in zip(axes, flat_out, strict=True):
        for m in range(atlas.models):
            shares = [atlas.grid[c][1] for c in points]
            axis.plot(shares, np.exp(atlas.sensitivity[m, points, r]), marker=".", label=atlas.names[m])
        axis.set(title=atlas.probes[r].resource.value, xlabel="probe's share, %")
    axes[0].set_ylabel(f"slowdown at {atlas.grid[points[0]][0]} %")
    axes[-1].legend(fontsize=6)
    _save(figure, path)


def predicted_against_measured(evaluation: Evaluation, path: Path) -> None:
    """One panel per group, unseen models only; the band is 6 %."""
    groups = [g for g in Group if any(j.group is g for j in evaluation.judged)]
    figure = Figure(figsize=(3.2 * len(groups), 3.2), layout="constrained")
    for axis, group in zip(figure.subplots(1, len(groups), squeeze=False)[0], groups, strict=True):
        judged = [j for j in evaluation.judged if j.group is group]
        measured = np.array([j.row.slowdown for j in judged])
        axis.plot(measured, [j.predicted[Predictor.PARTYWALL] for j in judged], ".", ms=2, rasterized=True)
        line = np.array([1.0, measured.max()])
        axis.plot(line, line, color="black", lw=0.7)
        axis.fill_between(line, line * 0.94, line * 1.06, color="black", alpha=0.1, lw=0)
        axis.set(title=group.value, xlabel="measured slowdown", ylabel="predicted", xscale="log", yscale="log")
    _save(figure, path)


def coverage(evaluation: Evaluation, path: Path) -> None:
    """Fraction of rows under the bound, by held-out model."""
    if evaluation.bound is None:
        return
    names = list(evaluation.bound.by_model)
    figure = Figure(figsize=(6.0, 3.0), layout="constrained")
    axis = figure.subplots()
    axis.bar(names, [100 * evaluation.bound.by_model[n] for n in names], color="tab:blue")
    axis.axhline(100 * evaluation.bound.coverage, color="black", lw=0.8, label="overall")
    axis.axhline(85, color="tab:red", lw=0.8, ls="--", label="least asked of one model")
    axis.set(ylim=(60, 100), ylabel="rows under the bound, %")
    axis.tick_params(axis="x", rotation=45)
    axis.legend(fontsize=7, loc="lower right")
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    with mpl.rc_context({"svg.hashsalt": "partywall", "svg.fonttype": "none", "font.size": 9}):
        figure.savefig(path, metadata=_METADATA, dpi=150)
