"""A transaction of the store that remembers what the catalog has to show once it is committed."""

from __future__ import annotations

from router.control.kinds import Kind, Stored, spec_of
from router.control.state import S, Transaction


class CatalogTransaction:
    """The store's verbs; remembers what to show once it is committed."""

    def __init__(self, tx: Transaction) -> None:
        self._tx = tx
        self.written: list[tuple[Kind, str, Stored | None]] = []

    async def insert(self, value: S) -> S:
        """See `state.Transaction.insert`."""
        return self._note(await self._tx.insert(value))

    async def update(self, value: S) -> S:
        """See `state.Transaction.update`."""
        return self._note(await self._tx.update(value))

    async def delete(self, value: Stored) -> None:
        """See `state.Transaction.delete`."""
        await self._tx.delete(value)
        spec = spec_of(value)
        self.written.append((spec.kind, spec.key_of(value), None))

    def _note(self, value: S) -> S:
        spec = spec_of(value)
        self.written.append((spec.kind, spec.key_of(value), value))
        return value
