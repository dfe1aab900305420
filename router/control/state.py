"""The seam to whatever keeps the control plane's state: SQL (`store.SqlStore`) or memory (`memory.MemoryStore`)."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol, TypeVar

from router.control.kinds import Kind, Stored

S = TypeVar("S", bound=Stored)


@dataclass(frozen=True, slots=True)
class Change:
    """One write, numbered in commit order."""

    rev: int
    kind: Kind
    key: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything at one revision: objects by kind and key."""

    rev: int
    objects: Mapping[Kind, Mapping[str, Stored]]


class Outcome(enum.Enum):
    """How a transaction ended. UNKNOWN: the commit was sent and never answered."""

    OPEN = enum.auto()
    COMMITTED = enum.auto()
    ROLLED_BACK = enum.auto()
    UNKNOWN = enum.auto()


class Transaction(Protocol):
    """All or nothing. An exception leaving the `async with` rolls everything back."""

    @property
    def outcome(self) -> Outcome: ...

    @property
    def changes(self) -> Sequence[Change]:
        """What was written so far."""
        ...

    async def insert(self, value: S) -> S:
        """Adds a new object as it is.

        Raises:
            AlreadyExists: The key or a unique field is taken.
            Conflict: What it refers to does not exist.
        """
        ...

    async def update(self, value: S) -> S:
        """Replaces the object where its `rev` is still `value.rev`; returns it with `rev + 1`.

        Raises:
            Conflict: Somebody else changed or removed it first, or what it refers to does not exist.
            AlreadyExists: A unique field is taken.
        """
        ...

    async def delete(self, value: Stored) -> None:
        """Removes the object where its `rev` is still `value.rev`.

        Raises:
            Conflict: It was changed or removed first, or others still refer to it.
        """
        ...


class StateStore(Protocol):
    """Durable state. Every method ends within the store's own bound.

    Raises:
        Unavailable: STORE_UNAVAILABLE from every method when the store is full, locked, damaged or gone.
    """

    async def open(self) -> None:
        """Checks the store and brings its schema up to date."""
        ...

    def transaction(self) -> AbstractAsyncContextManager[Transaction]:
        """One writer at a time; committed on leaving the block."""
        ...

    async def load(self) -> Snapshot:
        """All objects, at one revision."""
        ...

    async def changes_since(self, rev: int) -> Sequence[Change]:
        """Changes after `rev`, oldest first."""
        ...

    async def prune_changes(self, keep: int) -> None:
        """Forgets all but the newest `keep` changes."""
        ...

    async def close(self) -> None:
        """Releases files and connections."""
        ...
