"""Recorded arrivals from CSV files.

Two forms are read; which one is told by the first column's name:

- `seconds,model`: seconds since the start of the recording and the model that was asked for;
- `TIMESTAMP,...`: wall-clock times such as `2023-11-16 18:17:03.9799600` (the Azure LLM inference trace 2023); further
  columns are ignored.

LF and CRLF line ends are both fine. Times must not go back.
"""

from __future__ import annotations

import csv
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np

from loadgen.arrivals import FloatArray
from partywall.errors import InvalidInput

SECONDS_COLUMN = "seconds"
MODEL_COLUMN = "model"
TIMESTAMP_COLUMN = "TIMESTAMP"


@dataclass(frozen=True, slots=True)
class Trace:
    """Arrival times in seconds, ascending, shape [n]; `models` has one name for each, or is empty."""

    source: str
    times_s: FloatArray
    models: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.times_s)

    def only(self, model: str) -> Trace:
        """The arrivals of one model.

        Raises:
            InvalidInput: The trace names no models, or not this one.
        """
        if model not in self.models:
            known = ", ".join(sorted(set(self.models))[:20]) or "none: it has no model column"
            raise InvalidInput(
                f"{self.source}: no arrivals of model {model!r}; models in it: {known}",
                fields={"field": "trace-model", "file": self.source},
            )
        keep = np.array([name == model for name in self.models])
        return Trace(self.source, self.times_s[keep], (model,) * int(keep.sum()))

    def window(self, start_s: float, end_s: float = math.inf) -> Trace:
        """The arrivals in [start_s, end_s) of the recording, with `start_s` as the new zero.

        Raises:
            InvalidInput: Nothing lies inside.
        """
        keep = (self.times_s >= start_s) & (self.times_s < end_s)
        if not keep.any():
            raise InvalidInput(
                f"{self.source}: no arrivals between {start_s:g} s and {end_s:g} s; the recording runs from "
                f"{self.times_s[0]:g} s to {self.times_s[-1]:g} s",
                fields={"field": "trace-window", "file": self.source},
            )
        models = tuple(m for m, kept in zip(self.models, keep, strict=True) if kept) if self.models else ()
        return Trace(self.source, self.times_s[keep] - start_s, models)

    def faster(self, factor: float) -> Trace:
        """The same arrivals in 1/factor of the time: bursts stay bursts, the rate is `factor` times as high.

        Raises:
            InvalidInput: The factor is not above zero.
        """
        if not (math.isfinite(factor) and factor > 0):
            raise InvalidInput(f"trace-speed must be above zero, got {factor}", fields={"field": "trace-speed"})
        return Trace(self.source, self.times_s / factor, self.models)

    def at_rate(self, rate_per_s: float) -> Trace:
        """Stretched or squeezed in time to this mean rate.

        Raises:
            InvalidInput: The rate is not above zero, or all arrivals are at one instant.
        """
        span_s = float(self.times_s[-1])
        if span_s <= 0:
            raise InvalidInput(
                f"{self.source}: all arrivals are at one instant, so a rate cannot be set; leave out `rate`",
                fields={"field": "rate", "file": self.source},
            )
        return self.faster(rate_per_s * span_s / len(self))


def read_trace(path: Path) -> Trace:
    """Reads a trace; times of the `TIMESTAMP` form count from its first row.

    Raises:
        InvalidInput: Names the file, and the line and column of what cannot be read.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.reader(file)
            header = [name.strip() for name in next(rows, [])]
            if TIMESTAMP_COLUMN in header:
                return _checked(path, [(line, t, "") for line, t in _timestamps(path, header, rows)])
            if SECONDS_COLUMN in header:
                return _checked(path, list(_seconds(path, header, rows)))
    except OSError as error:
        raise InvalidInput(f"{path}: cannot be read: {error.strerror}", fields={"file": str(path)}) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InvalidInput(f"{path}: is not a CSV text file: {error}", fields={"file": str(path)}) from error
    raise InvalidInput(
        f"{path}, line 1: the header must name a column `seconds` or `TIMESTAMP`, got {', '.join(header)[:120]!r}",
        fields={"file": str(path), "line": "1"},
    )


def _seconds(path: Path, header: list[str], rows: Iterator[list[str]]) -> Iterator[tuple[int, float, str]]:
    at = header.index(SECONDS_COLUMN)
    model_at = header.index(MODEL_COLUMN) if MODEL_COLUMN in header else None
    for line, row in enumerate(rows, start=2):
        if not row:
            continue
        text = _cell(path, line, SECONDS_COLUMN, row, at)
        try:
            seconds = float(text)
        except ValueError:
            seconds = math.nan
        if not (math.isfinite(seconds) and seconds >= 0):
            raise _bad_cell(path, line, SECONDS_COLUMN, f"must be a number of seconds >= 0, got {text[:60]!r}")
        yield line, seconds, "" if model_at is None else _cell(path, line, MODEL_COLUMN, row, model_at)


def _timestamps(path: Path, header: list[str], rows: Iterator[list[str]]) -> Iterator[tuple[int, float]]:
    at = header.index(TIMESTAMP_COLUMN)
    first: tuple[datetime, int] | None = None
    for line, row in enumerate(rows, start=2):
        if not row:
            continue
        whole, nanoseconds = _instant(path, line, _cell(path, line, TIMESTAMP_COLUMN, row, at))
        first = first or (whole, nanoseconds)
        try:
            gap = whole - first[0]
        except TypeError as error:
            raise _bad_cell(path, line, TIMESTAMP_COLUMN, "has a time zone where line 2 has none, or none") from error
        yield line, gap.total_seconds() + (nanoseconds - first[1]) / 1e9


def _instant(path: Path, line: int, text: str) -> tuple[datetime, int]:
    """Whole seconds and nanoseconds apart: `datetime` alone would cut the seventh digit."""
    head, dot, tail = text.strip().partition(".")
    digits = tail[: len(tail) - len(tail.lstrip("0123456789"))]
    try:
        if dot and not 1 <= len(digits) <= 9:
            raise ValueError("1 to 9 fractional digits are read")
        return datetime.fromisoformat(head + tail[len(digits) :]), int(digits.ljust(9, "0")) if digits else 0
    except ValueError as error:
        message = f"must be a time such as 2023-11-16 18:17:03.9799600, got {text[:60]!r}"
        raise _bad_cell(path, line, TIMESTAMP_COLUMN, message) from error


def _checked(path: Path, rows: list[tuple[int, float, str]]) -> Trace:
    if not rows:
        raise InvalidInput(f"{path}: has a header and no arrivals", fields={"file": str(path)})
    for (_, before, _), (line, now, _) in itertools.pairwise(rows):
        if now < before:
            raise InvalidInput(
                f"{path}, line {line}: time goes back from {before:g} s to {now:g} s; sort the file by time",
                fields={"file": str(path), "line": str(line)},
            )
    models = tuple(model for _, _, model in rows)
    return Trace(str(path), np.array([t for _, t, _ in rows], np.float64), models if any(models) else ())


def _cell(path: Path, line: int, column: str, row: list[str], at: int) -> str:
    if at >= len(row):
        raise _bad_cell(path, line, column, f"is missing: the row has {len(row)} columns")
    return row[at].strip()


def _bad_cell(path: Path, line: int, column: str, message: str) -> InvalidInput:
    return InvalidInput(
        f"{path}, line {line}, column {column}: {message}",
        fields={"file": str(path), "line": str(line), "column": column},
    )
