"""Values of a load's specification, as people write them."""

from __future__ import annotations

import math
import re
from pathlib import Path

from partywall.errors import InvalidInput

_UNITS_S = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_NUMBERS = ("rate", "slo-ms", "deadline-ms", "trace-speed")
_COUNTS = {"batch": 1_000_000, "channels": 1_024}
"""The most of each."""
_PATHS = ("key-file", "text", "npy")
_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ms|s|m|h)?")


def duration_of(where: str, field: str, value: object) -> float:
    """`500ms`, `30s`, `2m`, `1h`, or plain seconds."""
    match = _DURATION.fullmatch(str(value))
    if match is None:
        raise bad_spec(where, field, f"must be a duration such as 30s, 500ms or 2m, got {value!r}")
    return float(match[1]) * _UNITS_S[match[2] or "s"]


def read_value(where: str, key: str, value: object) -> object:
    """A key's value in its type.

    Raises:
        InvalidInput: It is not one; names the key.
    """
    if key in _NUMBERS:
        number = as_number(value)
        if not (number > 0 and math.isfinite(number)):
            raise bad_spec(where, key, f"must be a number above zero, got {value!r}")
        return number
    if key in _COUNTS:
        count = as_number(value)
        if not (1 <= count <= _COUNTS[key] and count == round(count)):
            raise bad_spec(where, key, f"must be a whole number from 1 to {_COUNTS[key]:,}, got {value!r}")
        return int(count)
    if not isinstance(value, str | int):
        raise bad_spec(where, key, f"must be text, got {value!r}")
    if not str(value):
        raise bad_spec(where, key, "is empty")
    return Path(str(value)).expanduser() if key in _PATHS else str(value)


def as_number(value: object) -> float:
    """NaN where it is none."""
    try:
        return math.nan if isinstance(value, bool) else float(value)  # type: ignore[arg-type]  # TypeError is caught
    except (TypeError, ValueError):
        return math.nan


def finite(text: str) -> float:
    """A number that is neither infinite nor NaN.

    Raises:
        ValueError: It is not one.
    """
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text!r} is not a finite number")
    return value


def bad_spec(where: str, field: str, problem: str) -> InvalidInput:
    """What is wrong, and in which key of which tenant."""
    return InvalidInput(f"{where}: {field} {problem}", fields={"field": field})
