"""`StateStore` in memory: the simulated side, with the same rules about keys, references and revisions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, cast

from partywall.errors import AlreadyExists, Conflict, Reason, Unavailable
from router.control.kinds import BY_KIND, SPECS, Kind, KindSpec, Stored, spec_of
from router.control.sql_errors import changed_meanwhile
from router.control.state import Change, Outcome, S, Snapshot

Objects = dict[Kind, dict[str, Stored]]


class MemoryStore:
    """State that lasts as long as the object. `fail` makes it behave like a store that is gone."""

    def __init__(self) -> None:
        self._objects: Objects = {spec.kind: {} for spec in SPECS}
        self._changes: list[Change] = []
        self._rev = 0
        self._writer = asyncio.Lock()
        self._failing = False

    def fail(self, failing: bool = True) -> None:
        """From now on every method answers STORE_UNAVAILABLE, or no longer does."""
        self._failing = failing

    async def open(self) -> None:
        self._check()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[MemoryTransaction]:
        self._check()
        async with self._writer:
            tx = MemoryTransaction({kind: dict(held) for kind, held in self._objects.items()}, self._rev)
            try:
                yield tx
            except BaseException:
                tx.outcome = Outcome.ROLLED_BACK
                raise
            tx.outcome = Outcome.ROLLED_BACK
            self._check()
            self._objects, self._rev = tx.objects, self._rev + len(tx.changes)
            self._changes.extend(tx.changes)
            tx.outcome = Outcome.COMMITTED

    async def load(self) -> Snapshot:
        self._check()
        return Snapshot(self._rev, {kind: dict(held) for kind, held in self._objects.items()})

    async def changes_since(self, rev: int) -> Sequence[Change]:
        self._check()
        return [change for change in self._changes if change.rev > rev]

    async def prune_changes(self, keep: int) -> None:
        self._check()
        self._changes = [change for change in self._changes if change.rev > self._rev - keep]

    async def close(self) -> None:
        """Nothing to release."""

    def _check(self) -> None:
        if self._failing:
            raise Unavailable("the state store is away; retry", reason=Reason.STORE_UNAVAILABLE, retry_after_s=2.0)


class MemoryTransaction:
    """See `state.Transaction`; works on a copy."""

    def __init__(self, objects: Objects, rev: int) -> None:
        self.objects = objects
        self.outcome = Outcome.OPEN
        self.changes: list[Change] = []
        self._rev = rev

    async def insert(self, value: S) -> S:
        spec = spec_of(value)
        key = spec.key_of(value)
        if key in self.objects[spec.kind]:
            raise AlreadyExists(f"{spec.kind} {key} exists already; choose another")
        self._put(spec, key, value)
        return value

    async def update(self, value: S) -> S:
        spec = spec_of(value)
        self._current(spec, value)
        after = cast("S", replace(cast("Any", value), rev=cast("Any", value).rev + 1))
        self._put(spec, spec.key_of(value), after)
        return after

    async def delete(self, value: Stored) -> None:
        spec = spec_of(value)
        self._current(spec, value)
        key = spec.key_of(value)
        for child in SPECS:
            for fields, parent in child.parents:
                if parent is spec.kind and key in map(_reference(fields), self.objects[child.kind].values()):
                    raise Conflict(f"{spec.kind} {key} is still referred to by {child.table}; remove those first")
        del self.objects[spec.kind][key]
        self._record(spec, value)

    def _current(self, spec: KindSpec, value: Stored) -> None:
        held = self.objects[spec.kind].get(spec.key_of(value))
        if held is None or (spec.has_rev and cast("Any", held).rev != cast("Any", value).rev):
            raise changed_meanwhile(spec, value)

    def _put(self, spec: KindSpec, key: str, value: Stored) -> None:
        for fields in spec.unique:
            mine = _reference(fields)(value)
            for other_key, other in self.objects[spec.kind].items():
                if other_key != key and _reference(fields)(other) == mine:
                    raise AlreadyExists(f"{spec.kind} with {', '.join(fields)} {mine} exists already; choose another")
        for fields, parent in spec.parents:
            if _reference(fields)(value) not in self.objects[parent]:
                raise Conflict(f"the {BY_KIND[parent].kind} that {spec.kind} {key} refers to does not exist")
        self.objects[spec.kind][key] = value
        self._record(spec, value)

    def _record(self, spec: KindSpec, value: Stored) -> None:
        self._rev += 1
        self.changes.append(Change(self._rev, spec.kind, spec.told_of(value)))


def _reference(fields: tuple[str, ...]) -> Callable[[Stored], str]:
    """Reads the fields that refer to another object, as that object's key."""

    def read(value: Stored) -> str:
        return "/".join(str(getattr(value, name)) for name in fields)

    return read
