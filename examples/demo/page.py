"""The demo's report page and its picture."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from html import escape
from pathlib import Path

from noise import Arm
from outcome import HEADER, SLOWDOWN_HEADER, Outcome, cells, objective_line, quota_line, slowdown_cells
from tour import ACME

from loadgen.drawing import MUTED, css_variables, drawing, legend, series_colour
from loadgen.html import figure, grid, page, section
from loadgen.plots import draw_percentiles, percentile_curve, timeline
from loadgen.report import percent
from loadgen.results import Requests

_LEAD = (
    "Tenant acme embeds sentences; tenant globex floods the machine with images. The same arrivals were sent to two "
    "instances: one where both share a worker, and one where each has its partition and globex a quota."
)
_SLOWDOWN_NOTE = (
    "Service time beside the other / alone: predicted from the profiles, measured from the replies of this run, and "
    "the bound that admission uses; medians."
)
_ORDER = (Arm.SOLO, Arm.WITHOUT, Arm.WITH)


def write_page(outcome: Outcome, settings: Mapping[str, object], path: Path) -> None:
    """One self-contained HTML page."""
    without, walls = outcome.row(ACME, Arm.WITHOUT), outcome.row(ACME, Arm.WITH)
    cards = "".join(
        f'<div class="card"><span class="muted">acme {escape(str(r.arm))}</span><b>{percent(r.attainment)}</b>'
        f'<span class="muted">of {r.sent:,} requests in time</span></div>'
        for r in (without, walls)
    )
    arms_s = outcome.plan.arm_s * outcome.rounds
    parts = [
        "<h1>The noisy neighbour</h1>",
        f'<p class="muted">{_LEAD}</p>',
        f'<div class="cards">{cards}</div>',
        section("Figures", grid(HEADER, [cells(r) for r in outcome.rows], texts=2)),
        f'<p class="muted">{escape(objective_line(outcome))}; {escape(quota_line(outcome))}.</p>',
        section("Slowdown behind the walls", grid(SLOWDOWN_HEADER, slowdown_cells(outcome), texts=2)),
        f'<p class="muted">{_SLOWDOWN_NOTE}</p>' if outcome.slowdowns else "",
        section(
            "Latency of acme",
            figure(
                percentile_curve(_curves(outcome)),
                "Served requests of all rounds; each further nine has the same width.",
            ),
        ),
        *(
            section(
                f"acme {arm}",
                figure(
                    timeline(_named(outcome, arm), arms_s, number),
                    f"{outcome.rounds} rounds, one after the other.",
                ),
            )
            for number, arm in enumerate(_ORDER[1:], start=1)
        ),
        section("Settings", grid(("setting", "value"), [(k, str(v)) for k, v in settings.items()], texts=2)),
    ]
    path.write_text(page("The noisy neighbour", parts), encoding="utf-8")


def write_results(outcome: Outcome, settings: Mapping[str, object], path: Path) -> None:
    """All figures as one JSON object."""
    plan = outcome.plan
    body = {
        "settings": settings,
        "acme": {"service_ms": plan.acme_service_ms, "rate_per_s": plan.acme_rate_per_s},
        "globex": {
            "capacity_per_s": plan.globex_capacity_per_s,
            "offered_per_s": plan.flood_per_s,
            "quota_per_s": plan.quota_per_s,
            "quota_share": outcome.quota_share,
            "quota_served": outcome.quota_served,
        },
        "arm_s": plan.arm_s,
        "other_programs_share": outcome.others,
        "client": asdict(outcome.client),
        "objectives_ms": outcome.objectives_ms,
        "rows": [asdict(row) for row in outcome.rows],
        "slowdowns": [asdict(row) for row in outcome.slowdowns],
    }
    path.write_text(json.dumps(body, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def write_figure(outcome: Outcome, path: Path) -> None:
    """The picture of the run for a README: latency curves, and the figures under them."""
    shown = [outcome.row(ACME, arm) for arm in _ORDER]
    with drawing(8.2, 4.6, heights=(3.2, 1.3), share_x=False) as ((curve, below), finish):
        draw_percentiles(curve, _curves(outcome))
        legend(curve, columns=3)
        below.axis("off")
        columns = (0.0, 0.36, 0.53, 0.70, 0.88)
        for x, name in zip(
            columns, ("acme, " + f"{outcome.rounds} rounds", "requests", "p50 ms", "p99 ms", "in time"), strict=True
        ):
            below.text(x, 0.95, name, color=MUTED, fontsize=9, transform=below.transAxes)
        for line, row in enumerate(shown):
            texts = cells(row)
            values = (str(row.arm), texts[2], texts[6], texts[7], texts[8])
            for x, value in zip(columns, values, strict=True):
                colour = series_colour(line) if x == 0 else None
                options = {"color": colour} if colour else {}
                below.text(x, 0.66 - 0.3 * line, value, fontsize=11, transform=below.transAxes, **options)
        svg = finish("Latency of acme alone, behind a wall, and without walls")
    style = f"<style>{css_variables()} svg{{background:var(--page);font-family:system-ui,sans-serif}}</style>"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(svg.replace(">", f">{style}", 1) + "\n", encoding="utf-8")


def _curves(outcome: Outcome) -> list[Requests]:
    """One curve for each arm; the objective is drawn once."""
    curves = [_named(outcome, arm) for arm in _ORDER]
    return [curves[0], *(replace(curve, objective_ms=None) for curve in curves[1:])]


def _named(outcome: Outcome, arm: Arm) -> Requests:
    """Acme's requests of an arm under the arm's name, beside the mean of the rounds' objectives."""
    mean_ms = sum(outcome.objectives_ms) / len(outcome.objectives_ms)
    return replace(outcome.requests[str(arm)], name=str(arm), objective_ms=mean_ms)
