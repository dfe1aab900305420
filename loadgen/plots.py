"""Plots of a run, each as one SVG element."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from loadgen.arrivals import FloatArray, IntArray
from loadgen.drawing import MISS, drawing, legend, log_milliseconds, series_colour
from loadgen.report import TenantReport, percent
from loadgen.results import Fate, Requests

_TAIL_TICKS = (0.0, 0.5, 0.9, 0.99, 0.999, 0.9999)
_CURVE_POINTS = 160
_MAX_BINS = 90
_DASHED = (0, (4, 3))


def percentile_curve(requests: Sequence[Requests]) -> str:
    """Latency by percentile, with the tail stretched (x is -log10(1 - percentile)); objectives are dashed lines."""
    with drawing(7.6, 3.5) as ((axes,), finish):
        draw_percentiles(axes, requests)
        legend(axes, columns=max(1, len(requests)))
        return finish("Latency by percentile")


def draw_percentiles(axes: Any, requests: Sequence[Requests]) -> None:
    """The curves of `percentile_curve` on given axes."""
    deepest = 1.0
    for number, r in enumerate(requests):
        latency_ms = np.sort(r.latency_s[r.fate == Fate.SERVED]) * 1e3
        if len(latency_ms):
            rank = _ranks(len(latency_ms))
            depth = -np.log10(1 - (rank + 0.5) / len(latency_ms))
            deepest = max(deepest, float(depth[-1]))
            axes.plot(depth, latency_ms[rank], color=series_colour(number), lw=1.8, label=r.name)
        if r.objective_ms is not None:
            axes.axhline(r.objective_ms, color=series_colour(number), lw=1, ls=_DASHED)
    ticks = [t for t in _TAIL_TICKS if -np.log10(1 - t) <= deepest]
    axes.set_xticks([-np.log10(1 - t) for t in ticks], [f"p{t * 100:g}" for t in ticks])
    log_milliseconds(axes)
    axes.set_xlabel("percentile of served requests (dashed: the objective)")


def timeline(requests: Requests, duration_s: float, number: int) -> str:
    """One tenant over time: p50 and p99 of served requests above, requests per second by fate below."""
    edges = np.linspace(0, duration_s, min(_MAX_BINS, max(10, int(duration_s))) + 1)
    middle, width_s = (edges[:-1] + edges[1:]) / 2, float(edges[1] - edges[0])
    bins = np.clip(np.searchsorted(edges, requests.intended_s, side="right") - 1, 0, len(middle) - 1)
    served = requests.fate == Fate.SERVED
    colour = series_colour(number)
    with drawing(7.6, 3.3, heights=(3, 2)) as ((above, below), finish):
        for quantile, alpha in ((0.5, 1.0), (0.99, 0.5)):
            line = _binned_quantile_ms(requests.latency_s, served, bins, len(middle), quantile)
            above.plot(middle, line, color=colour, alpha=alpha, lw=1.6, label=f"p{quantile * 100:g}")
        if requests.objective_ms is not None:
            above.axhline(requests.objective_ms, color=colour, lw=1, ls=_DASHED, label="objective")
        log_milliseconds(above)
        legend(above, columns=3)
        base = np.zeros(len(middle))
        for name, mask, fill in (("served", served, colour), ("refused, failed or unsent", ~served, MISS)):
            rate_per_s = np.bincount(bins[mask], minlength=len(middle)) / width_s
            if rate_per_s.any():
                below.bar(middle, rate_per_s, width_s, bottom=base, color=fill, label=name, linewidth=0)
            base = base + rate_per_s
        below.set_ylabel("requests/s")
        below.set_xlabel("intended send time, s")
        below.set_xlim(0, duration_s)
        legend(below, columns=2)
        return finish(f"{requests.name} over time")


def attainment_bars(tenants: Sequence[TenantReport]) -> str:
    """In time, late, refused or failed as shares of what was sent; one bar per tenant."""
    with drawing(7.6, 0.75 + 0.42 * len(tenants)) as ((axes,), finish):
        for number, t in enumerate(tenants):
            total = t.sent or 1
            colour, missed = series_colour(number), t.refused + t.failed
            left = 0.0
            for count, fill, alpha in (
                (t.in_time, colour, 1.0),
                (t.served - t.in_time, colour, 0.4),
                (missed, MISS, 1),
            ):
                axes.barh(number, 100 * count / total, 0.62, left=left, color=fill, alpha=alpha, linewidth=0)
                left += 100 * count / total
            axes.text(101, number, percent(t.in_time / total) if t.sent else "-", va="center", fontsize=9)
        axes.set_yticks(range(len(tenants)), [t.name for t in tenants])
        axes.invert_yaxis()
        axes.set_xlim(0, 100)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("% of sent requests: in time (full), served late (pale), refused or failed (red)")
        return finish("Share of requests in time")


def _ranks(count: int) -> IntArray:
    """Ranks that are dense in the tail: at most `_CURVE_POINTS` of them, the first and the last among them."""
    depth = np.linspace(0, np.log10(2 * count), _CURVE_POINTS)
    ranks = np.unique(np.clip(((1 - 10**-depth) * count).astype(np.int64), 0, count - 1))
    return np.unique(np.append(ranks, count - 1))


def _binned_quantile_ms(
    latency_s: FloatArray, keep: npt.NDArray[np.bool_], bins: IntArray, count: int, quantile: float
) -> FloatArray:
    out = np.full(count, np.nan)
    for b in range(count):
        inside = latency_s[keep & (bins == b)]
        if len(inside):
            out[b] = float(np.quantile(inside, quantile)) * 1e3
    return out
