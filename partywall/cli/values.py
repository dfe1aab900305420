"""Values as people type them: sizes, durations, limits that can be removed."""

from __future__ import annotations

import re

import typer

from partywall.errors import InvalidInput

NONE = "none"
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?", re.IGNORECASE)
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)?")
_DURATION_S = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0, None: 1.0}
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
MOST = 1 << 62
"""Above it a number fits into no field of a message."""
MOST_SECONDS = 100 * 365 * 86_400.0
MOST_COUNT = (1 << 32) - 1
MOST_CORES = 4096
LEAST_MESSAGE, MOST_MESSAGE = 4 << 10, 512 << 20
"""A frame of the link, which holds a message and more, has at most 1 GiB."""


def parse_size(text: str) -> int:
    """`2GiB`, `500MB`, `1024`: bytes."""
    found = _SIZE.fullmatch(str(text).strip())
    if found is None:
        raise typer.BadParameter(f"{text!r} is not a size; write bytes, or a number with KiB, MiB, GiB, TiB")
    number, power, binary = found.groups()
    unit: int = (1024 if binary else 1000) ** _POWERS[power.lower()]
    return round(_bounded(text, float(number) * unit, MOST))


def parse_message_size(text: str) -> int:
    """A size that a message of the wire may have: bytes."""
    size = parse_size(text)
    if not LEAST_MESSAGE <= size <= MOST_MESSAGE:
        raise typer.BadParameter(f"{text!r} is no size of a message; write 4KiB to 512MiB")
    return size


def parse_duration(text: str) -> float:
    """`90d`, `15m`, `500ms`, `30`: seconds."""
    found = _DURATION.fullmatch(str(text).strip())
    if found is None:
        raise typer.BadParameter(f"{text!r} is not a duration; write a number with ms, s, m, h, d or w")
    number, unit = found.groups()
    return _bounded(text, float(number) * _DURATION_S[unit], MOST_SECONDS)


def whole_seconds(lifetime_s: float | None) -> int:
    """A lifetime as the wire has it; 0 where none was given."""
    if lifetime_s is None:
        return 0
    if not 1 <= lifetime_s <= MOST_COUNT:
        raise InvalidInput(
            f"lifetime must be 1s to {MOST_COUNT}s, got {lifetime_s:g}s; leave it out for the default",
            fields={"field": "lifetime"},
        )
    return round(lifetime_s)


def limit_number(text: str) -> float:
    """A limit above zero, or `none`: zero on the wire, which removes it."""
    if text.strip().lower() == NONE:
        return 0.0
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise typer.BadParameter(f"{text!r} is not a limit; write a number above zero, or none to remove it")
    return _bounded(text, value, MOST)


def limit_count(text: str) -> int:
    """A whole limit above zero, or `none`."""
    value = limit_number(text)
    if value != int(value):
        raise typer.BadParameter(f"{text!r} is not a whole number")
    return int(_bounded(text, value, MOST_COUNT))


def limit_size(text: str) -> int:
    """A size limit above zero, or `none`."""
    if text.strip().lower() == NONE:
        return 0
    value = parse_size(text)
    if value <= 0:
        raise typer.BadParameter(f"{text!r} is not a limit; write a size above zero, or none to remove it")
    return value


def parse_option(text: str) -> tuple[str, str]:
    """`k=v` in two."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise typer.BadParameter(f"{text!r} is not of the form key=value")
    return key, value


def parse_cores(text: str) -> tuple[int, ...]:
    """`0,1` or `0-3,6`: core numbers."""
    cores: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        # isdecimal: what int() reads; isdigit takes superscripts too.
        numbers = [int(n) for n in (first, last if dash else first) if n.isdecimal()]
        if len(numbers) < 2 or not numbers[0] <= numbers[1] < MOST_CORES:
            raise typer.BadParameter(f"{text!r} is not a list of cores; write for example 0,1 or 0-3")
        cores.extend(range(numbers[0], numbers[1] + 1))
    return tuple(dict.fromkeys(cores))


def _bounded(text: str, value: float, most: float) -> float:
    if not value <= most:
        raise typer.BadParameter(f"{text!r} is too large; {most:.4g} is the most")
    return value


def human_bytes(count: int) -> str:
    """`1.5 GiB`."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"
