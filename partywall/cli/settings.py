"""Which server, with which credential: global options with where each value came from."""

from __future__ import annotations

import enum
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from partywall.errors import InvalidInput, Reason, Unauthenticated, Unavailable

DEFAULT_PUBLIC = "127.0.0.1:8001"
DEFAULT_ADMIN = "127.0.0.1:8003"
SECRETS = frozenset({"api_key"})


class Origin(enum.IntEnum):
    """Where a value came from; the higher wins."""

    DEFAULT = 0
    FILE = 1
    ENVIRONMENT = 2
    FLAG = 3


@dataclass(frozen=True, slots=True)
class Setting:
    value: Any
    origin: Origin = Origin.DEFAULT


@dataclass(frozen=True, slots=True)
class Settings:
    """All global options by name, resolved: flags over environment over file over defaults."""

    values: Mapping[str, Setting] = field(default_factory=dict)

    def get(self, name: str) -> Any:
        """The value of an option, None where it has none."""
        found = self.values.get(name)
        return None if found is None else found.value

    def origin(self, name: str) -> Origin:
        found = self.values.get(name)
        return Origin.DEFAULT if found is None or found.value is None else found.origin

    def with_flag(self, name: str, value: Any) -> Settings:
        """The same with one option given on the command line."""
        return replace(self, values={**self.values, name: Setting(value, Origin.FLAG)})

    @property
    def data_dir(self) -> Path | None:
        found = self.get("data_dir")
        return Path(found) if found is not None else None

    def public_address(self) -> str:
        return self._address("address", "public", DEFAULT_PUBLIC)

    def admin_address(self) -> str:
        return self._address("admin_address", "admin", DEFAULT_ADMIN)

    def api_key(self) -> str | None:
        """The tenant's key, or None.

        Raises:
            InvalidInput: The key file cannot be read.
        """
        path = self.get("api_key_file")
        if path is not None and self.origin("api_key_file") >= self.origin("api_key"):
            return read_secret(Path(path), "api_key_file")
        value: str | None = self.get("api_key")
        return value

    def admin_key(self) -> str:
        """The operator's key.

        Raises:
            Unauthenticated: None was given.
            InvalidInput: The key file cannot be read.
        """
        path = self.get("admin_key_file")
        if path is None or self.origin("data_dir") > self.origin("admin_key_file"):
            path = self.data_dir / "admin.key" if self.data_dir is not None else path
        if path is None:
            raise Unauthenticated(
                "this command is the operator's and no admin key was given",
                reason=Reason.NO_CREDENTIAL,
                fields={"hint": "give --data-dir D (where `partywall init` made admin.key) or --admin-key-file FILE"},
            )
        return read_secret(Path(path), "admin_key_file")

    def _address(self, option: str, key: str, default: str) -> str:
        explicit: str | None = self.get(option)
        if self.data_dir is None or (explicit is not None and self.origin(option) >= self.origin("data_dir")):
            return explicit or default
        return local_address(read_addresses(self.data_dir)[key])


def read_addresses(data_dir: Path) -> dict[str, str]:
    """Where the instance in a data directory listens.

    Raises:
        InvalidInput: There is no such directory, or the file is damaged.
        Unavailable: No router runs there.
    """
    path = data_dir / "run" / "addresses.json"
    try:
        found = json.loads(path.read_text())
        return {key: str(found[key]) for key in ("public", "admin", "link", "metrics")}
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, TypeError) as failure:
        raise InvalidInput(f"{str(path)!r} cannot be read ({failure}); restart the router") from failure
    if not data_dir.is_dir():
        raise InvalidInput(
            f"data_dir {str(data_dir)!r} does not exist",
            fields={"field": "data_dir", "hint": f"make it with `partywall init --data-dir {data_dir}`"},
        )
    raise Unavailable(
        f"no router runs on data directory {str(data_dir)!r} (it has no run/addresses.json)",
        reason=Reason.UNREACHABLE,
        fields={"hint": f"start it with `partywall up --data-dir {data_dir}`"},
    )


def local_address(listen: str) -> str:
    """A listening address as a client on the same machine calls it."""
    for everywhere, here in (("0.0.0.0:", "127.0.0.1:"), ("[::]:", "[::1]:")):
        if listen.startswith(everywhere):
            return here + listen.removeprefix(everywhere)
    return listen


def read_secret(path: Path, field_name: str) -> str:
    """A key from a file, white space around it dropped.

    Raises:
        InvalidInput: The file is not there, unreadable or empty.
    """
    try:
        secret = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as failure:
        why = failure.strerror if isinstance(failure, OSError) else "not text"
        raise InvalidInput(f"{field_name} {str(path)!r} cannot be read ({why})", fields={"field": field_name}) from None
    if not secret:
        raise InvalidInput(f"{field_name} {str(path)!r} is empty", fields={"field": field_name})
    return secret
