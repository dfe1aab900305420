"""Frozen dataclasses to and from rows of plain columns.

A row has one column per field. Text, numbers and bytes stay themselves; times become microseconds since 1970 in UTC;
enums their value; nested values (a quota, a manifest, a list of files) canonical JSON.
"""

from __future__ import annotations

import base64
import collections.abc
import dataclasses
import enum
import functools
import json
import types
import typing
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

T = TypeVar("T")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_PLAIN = (str, int, float, bytes)


def to_row(value: Any) -> dict[str, Any]:
    """The columns of a dataclass instance."""
    return {name: _to_column(getattr(value, name)) for name in field_types(type(value))}


def from_row(cls: type[T], row: collections.abc.Mapping[str, Any]) -> T:
    """The instance behind a row; the inverse of `to_row`."""
    return cls(**{name: _from_column(hint, row[name]) for name, hint in field_types(cls).items()})


def field_types(cls: Any) -> dict[str, Any]:
    """Resolved type of each field, in order."""
    found: dict[str, Any] = _field_types(cls)
    return found


@functools.cache
def _field_types(cls: Any) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def is_nested(hint: Any) -> bool:
    """Whether a field of this type is stored as JSON."""
    inner = strip_optional(hint)
    return dataclasses.is_dataclass(inner) or typing.get_origin(inner) is not None


def strip_optional(hint: Any) -> Any:
    """`X` for `X | None`, else the hint itself."""
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return next(arg for arg in typing.get_args(hint) if arg is not types.NoneType)
    return hint


def _to_column(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return value.value
    if value is None or isinstance(value, _PLAIN):
        return value
    if isinstance(value, datetime):
        return _microseconds(value)
    return json.dumps(_to_json(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def _from_column(hint: Any, raw: Any) -> Any:
    if raw is None:
        return None
    if is_nested(hint):
        return _from_json(hint, json.loads(raw))
    return _scalar(strip_optional(hint), raw)


def _to_json(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, datetime):
        return _microseconds(value)
    if dataclasses.is_dataclass(value):
        return {field.name: _to_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, tuple):
        return [_to_json(item) for item in value]
    if isinstance(value, collections.abc.Mapping):
        return {str(key): _to_json(item) for key, item in value.items()}
    return value


def _from_json(hint: Any, raw: Any) -> Any:
    if raw is None:
        return None
    inner = strip_optional(hint)
    origin = typing.get_origin(inner)
    if origin is tuple:
        item = typing.get_args(inner)[0]
        return tuple(_from_json(item, one) for one in raw)
    if origin is not None:
        item = typing.get_args(inner)[1]
        return {key: _from_json(item, one) for key, one in raw.items()}
    if dataclasses.is_dataclass(inner):
        # A field that a newer version added is absent from older rows: its default stands.
        known = field_types(typing.cast("type[Any]", inner))
        return typing.cast("type[Any]", inner)(
            **{name: _from_json(known[name], item) for name, item in raw.items() if name in known}
        )
    if inner is bytes:
        return base64.b64decode(raw)
    return _scalar(inner, raw)


def _scalar(kind: Any, raw: Any) -> Any:
    if kind is datetime:
        return _EPOCH + timedelta(microseconds=raw)
    return kind(raw)


def _microseconds(at: datetime) -> int:
    return (at - _EPOCH) // _MICROSECOND
