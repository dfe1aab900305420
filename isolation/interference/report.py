"""An evaluation as JSON and as a table of text."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from isolation.interference.evaluate import BoundQuality, Evaluation, Predictor
from isolation.interference.rows import Group


def as_json(evaluation: Evaluation) -> dict[str, Any]:
    """Errors and rates as fractions; a group without rows is None."""
    document: dict[str, Any] = {}
    for group in Group:
        errors = evaluation.groups[group]
        document[group.value] = None if errors is None else {p.value: e and asdict(e) for p, e in errors.items()}
    document["bound"] = evaluation.bound and _bound(evaluation.bound)
    return document


def as_table(evaluation: Evaluation) -> str:
    """Percent, one line per group and predictor, then the bound."""
    lines = [f"{'group':9} {'predictor':12} {'p50':>6} {'p90':>6} {'p95':>6} {'max':>6} {'n':>5}"]
    for group in Group:
        for predictor in Predictor:
            errors = (evaluation.groups[group] or {}).get(predictor)
            if errors is not None:
                cells = " ".join(f"{100 * v:6.1f}" for v in (errors.p50, errors.p90, errors.p95, errors.max))
                lines.append(f"{group.value:9} {predictor.value:12} {cells} {errors.n:5d}")
    if evaluation.bound is not None:
        lines += ["", *_bound_lines(evaluation.bound)]
    return "\n".join(lines)


def _bound(bound: BoundQuality) -> dict[str, Any]:
    return {
        "coverage": bound.coverage,
        "by_model": dict(bound.by_model),
        "false_safe": {f"{o:g}": v for o, v in bound.false_safe.items()},
        "false_refuse": {f"{o:g}": v for o, v in bound.false_refuse.items()},
    }


def _bound_lines(bound: BoundQuality) -> list[str]:
    by_model = "  ".join(f"{n} {100 * v:.0f}" for n, v in bound.by_model.items())
    rates = "  ".join(
        f"at {o:g} x: false-safe {100 * bound.false_safe[o]:.1f} false-refuse {100 * bound.false_refuse[o]:.1f}"
        for o in bound.false_safe
    )
    return [f"bound covers {100 * bound.coverage:.1f} % of pairs: {by_model}", rates]
