"""A run as one HTML page: no script, no external resource, light and dark."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

from loadgen.drawing import css_variables
from loadgen.plots import attainment_bars, percentile_curve, timeline
from loadgen.report import QUANTILES, Report, TenantReport, number, percent
from loadgen.results import Requests

_STYLE = """
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
main{max-width:66rem;margin:0 auto;padding:2rem 1rem 3rem}
h1{font-size:1.5rem;margin:0 0 .2rem}h2{font-size:1.1rem;margin:2.2rem 0 .6rem}
p{margin:.4rem 0}.muted,figcaption{color:var(--muted)}figcaption{font-size:.88rem;margin-top:.2rem}
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;font-size:.84rem}
th,td{padding:.38rem .35rem;text-align:right;border-bottom:1px solid var(--grid);white-space:nowrap}
th{font-weight:600;color:var(--muted)}.text{text-align:left;white-space:normal}
figure{margin:0 0 1.4rem;overflow-x:auto}
svg{display:block;width:100%;min-width:32rem;max-width:52rem;height:auto;font-family:system-ui,sans-serif}
.cards{display:flex;flex-wrap:wrap;gap:.8rem;margin:1.2rem 0}
.card{flex:1 1 10rem;background:var(--panel);border:1px solid var(--grid);border-radius:8px;padding:.7rem .9rem}
.card b{display:block;font-size:1.5rem;line-height:1.25;font-weight:600}
.warning{border-left:4px solid var(--miss);background:var(--panel);padding:.5rem .8rem;margin:.6rem 0}
code{font:.9em ui-monospace,monospace;overflow-wrap:anywhere}
"""


def render(report: Report, requests: Sequence[Requests], title: str = "Load run") -> str:
    """The page of one run; `requests` are the columns the report was made from, warm-up already cut."""
    tenants = report.tenants
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="muted">{_lead(report)}</p>',
        *(f'<p class="warning">{escape(w)}</p>' for w in report.warnings),
        cards(tenants),
        section("Figures", _figures(tenants)),
        section(
            "In time",
            figure(
                attainment_bars(tenants), "A refused or failed request counts as a miss, as it does for its caller."
            ),
        ),
        section(
            "Latency",
            figure(percentile_curve(requests), "Served requests only; each further nine has the same width."),
        ),
        *(
            section(f"{r.name} over time", figure(timeline(r, report.duration_s, i), "p50 and p99 per interval."))
            for i, r in enumerate(requests)
        ),
        section("Not served", _reasons(tenants)),
        section("The generator itself", _client(report)),
        section("Settings", grid(("setting", "value"), _flat(report.settings), texts=2)),
    ]
    return page(title, parts)


def _lead(report: Report) -> str:
    count = len(report.tenants)
    who = "one tenant" if count == 1 else f"{count} tenants"
    return f"{report.duration_s:g} s of open-loop load from {who}; latency counts from the intended send time."


def page(title: str, parts: Iterable[str]) -> str:
    """A whole document around ready HTML parts."""
    head = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{css_variables()}{_STYLE}</style></head>"
    )
    return f"{head}<body><main>{''.join(parts)}</main></body></html>\n"


def section(title: str, body: str) -> str:
    """A headed part of the page; an empty body leaves it out."""
    return f"<h2>{escape(title)}</h2>{body}" if body else ""


def figure(svg: str, caption: str) -> str:
    """A drawing with its caption."""
    return f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"


def grid(header: Sequence[str], rows: Iterable[Sequence[str]], texts: int = 1) -> str:
    """A table; the first `texts` columns are text, the rest numbers. Empty without rows."""
    body = "".join(f"<tr>{_row('td', row, texts)}</tr>" for row in rows)
    if not body:
        return ""
    head = _row('th scope="col"', header, texts)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def cards(tenants: Sequence[TenantReport]) -> str:
    """One headline figure per tenant."""
    made = []
    for t in tenants[:6]:
        share = percent(t.attainment) if t.objective_ms is not None else f"{t.goodput_per_s:.1f}/s"
        note = f"within {number(t.objective_ms)} ms" if t.objective_ms is not None else "served"
        p99 = number(t.latency_ms["p99"])
        made.append(
            f'<div class="card"><span class="muted">{escape(t.name)}</span><b>{share}</b>'
            f'<span class="muted">{note}; p99 {p99} ms</span></div>'
        )
    return f'<div class="cards">{"".join(made)}</div>'


def write_html(report: Report, requests: Sequence[Requests], path: Path) -> None:
    """Writes the page."""
    path.write_text(render(report, requests), encoding="utf-8")


def _row(tag: str, texts_and_numbers: Sequence[str], texts: int) -> str:
    name = tag.partition(" ")[0]
    return "".join(
        f"<{tag}{' class=text' if i < texts else ''}>{escape(cell)}</{name}>"
        for i, cell in enumerate(texts_and_numbers)
    )


def _figures(tenants: Sequence[TenantReport]) -> str:
    header = ["tenant", "planned", "sent", "served", "refused", "failed", "unsent"]
    header += [f"{name} ms" for name, _ in QUANTILES] + ["SLO ms", "attained", "of served", "goodput/s"]
    rows = []
    for t in tenants:
        counts = [f"{v:,}" for v in (t.planned, t.sent, t.served, t.refused, t.failed, t.unsent)]
        latencies = [number(t.latency_ms[name]) for name, _ in QUANTILES]
        tail = [
            number(t.objective_ms),
            percent(t.attainment),
            percent(t.attainment_of_served),
            f"{t.goodput_per_s:.1f}",
        ]
        rows.append([t.name, *counts, *latencies, *tail])
    return grid(header, rows)


def _reasons(tenants: Sequence[TenantReport]) -> str:
    return grid(
        ("tenant", "reason", "requests"),
        [(t.name, reason, f"{count:,}") for t in tenants for reason, count in t.reasons.items()],
        texts=2,
    )


def _client(report: Report) -> str:
    c = report.client
    late = [number(v) for v in (c.lateness_p50_ms, c.lateness_p99_ms, c.lateness_max_ms)]
    table = grid(("", "p50", "p99", "highest"), [("sent later than intended, ms", *late)])
    return table + f'<p class="muted">Requests the client could not send: {c.unsent:,}.</p>'


def _flat(settings: Mapping[str, object], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, value in settings.items():
        if isinstance(value, Mapping):
            rows += _flat(value, f"{prefix}{key}.")
        else:
            rows.append((prefix + key, str(value)))
    return rows
