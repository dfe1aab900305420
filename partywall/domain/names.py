"""Names of tenants, models, nodes and files: what is allowed, checked in one place."""

from __future__ import annotations

import re

from partywall.errors import InvalidInput

_NAME = re.compile(r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?")
_MODEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,126}[A-Za-z0-9])?")
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")


def check_name(value: str, field: str) -> str:
    """A tenant, node or trust-group name: 1 to 63 of a-z 0-9 . _ -, ends with a letter or digit.

    Raises:
        InvalidInput: Names the field and the rule.
    """
    if not _NAME.fullmatch(value):
        raise InvalidInput(
            f"{field} {value[:80]!r} is not a name: use 1 to 63 of a-z, 0-9, '.', '_', '-', "
            "starting and ending with a letter or digit",
            fields={"field": field, "value": value[:80]},
        )
    return value


def check_model_name(value: str, field: str = "model") -> str:
    """A model name: 1 to 128 of letters, digits, '.', '_', '-'.

    Raises:
        InvalidInput: Names the field and the rule.
    """
    if not _MODEL.fullmatch(value):
        raise InvalidInput(
            f"{field} {value[:160]!r} is not a model name: use 1 to 128 letters, digits, '.', '_', '-', "
            "starting and ending with a letter or digit",
            fields={"field": field, "value": value[:160]},
        )
    return value


def check_file_name(value: str, field: str = "file") -> str:
    """A plain file name inside an artifact: no folders, no hidden files.

    Raises:
        InvalidInput: Names the field and the rule.
    """
    if not _FILE.fullmatch(value):
        raise InvalidInput(
            f"{field} {value[:160]!r} is not a plain file name: use letters, digits, '.', '_', '-' and no folders",
            fields={"field": field, "value": value[:160]},
        )
    return value
