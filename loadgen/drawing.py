"""Drawings in the house style: matplotlib on the way in, small themeable SVG on the way out.

Colours become CSS variables and text stays text, so that one drawing is readable on light and dark pages.
"""

from __future__ import annotations

import contextlib
import html
import io
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

LIGHT = {
    "ink": "#1f2328",
    "muted": "#59636e",
    "grid": "#d8dee4",
    "page": "#ffffff",
    "panel": "#f6f8fa",
    "miss": "#c9372c",
    "s0": "#1f6feb",
    "s1": "#b35900",
    "s2": "#1a7f37",
    "s3": "#8250df",
    "s4": "#0e7c86",
    "s5": "#bf3989",
}
DARK = {
    "ink": "#e6edf3",
    "muted": "#9198a1",
    "grid": "#3d444d",
    "page": "#0d1117",
    "panel": "#151b23",
    "miss": "#f85149",
    "s0": "#58a6ff",
    "s1": "#e3913d",
    "s2": "#3fb950",
    "s3": "#bc8cff",
    "s4": "#39c5cf",
    "s5": "#f778ba",
}
SERIES = 6
"""Distinct series colours; more tenants go round."""

# Matplotlib wants real colours; each of these stands for the CSS variable that replaces it.
_STAND_IN = {name: f"#0102{number:02d}" for number, name in enumerate(LIGHT)}
INK, GRID, MISS, MUTED = _STAND_IN["ink"], _STAND_IN["grid"], _STAND_IN["miss"], _STAND_IN["muted"]

_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "partywall",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "figure.constrained_layout.use": True,
}


def series_colour(number: int) -> str:
    """The stand-in colour of a series."""
    return _STAND_IN[f"s{number % SERIES}"]


def css_variables() -> str:
    """The colours as CSS, light by default and dark where the reader asks for it."""
    light, dark = ("".join(f"--{k}:{v};" for k, v in theme.items()) for theme in (LIGHT, DARK))
    return f":root{{color-scheme:light dark;{light}}}@media (prefers-color-scheme:dark){{:root{{{dark}}}}}"


@contextlib.contextmanager
def drawing(
    width_in: float, height_in: float, *, heights: Sequence[float] = (1,), share_x: bool = True
) -> Iterator[tuple[Sequence[Any], Callable[[str], str]]]:
    """A figure with one axes for each of `heights`, top to bottom; and a function title -> SVG element."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(width_in, height_in))
        axes: list[Any] = list(
            figure.subplots(len(heights), 1, sharex=share_x, squeeze=False, height_ratios=list(heights))[:, 0]
        )

        def finish(title: str) -> str:
            out = io.StringIO()
            figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
            return _themed(out.getvalue(), title)

        yield axes, finish


def legend(axes: Any, columns: int = 1) -> None:
    """A legend above the axes, where it hides nothing; none for no entries."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=columns, borderaxespad=0.2)


def log_milliseconds(axes: Any) -> None:
    """A logarithmic latency axis with plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_ylabel("latency, ms")


def _themed(svg: str, title: str) -> str:
    """Cuts the XML prologue and metadata, names the picture, and puts variables where the stand-in colours are."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)
    referenced = set(re.findall(r"(?:url\(#|href=\"#)([^\")]+)", svg))
    svg = re.sub(r' id="([^"]*)"', lambda m: m[0] if m[1] in referenced else "", svg)
    for name, stand_in in _STAND_IN.items():
        svg = svg.replace(stand_in, f"var(--{name})")
    svg = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", svg)
    svg = re.sub(r"<[^>]*>", lambda tag: re.sub(r"\d+\.\d{2,}", _tenths, tag[0]), svg)
    svg = re.sub(r"\s*\n\s*", " ", svg).replace("> <", "><")
    label = html.escape(title, quote=True)
    return svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1).rstrip()


def _tenths(match: re.Match[str]) -> str:
    return f"{float(match[0]):.1f}".removesuffix(".0")
