"""The in-memory face of the store: what the data plane reads at each request, without a wait.

It equals the store after each commit. While the store is away it serves the last known state; only writes fail.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar, cast

import structlog

from partywall.domain.events import Event
from partywall.domain.fleet import Node
from partywall.domain.models import Model
from partywall.domain.placements import Decision, Placement
from partywall.domain.tenants import ApiKey, Tenant
from partywall.errors import Reason, Unavailable
from router.control.catalog_transaction import CatalogTransaction
from router.control.index import Index, ModelEntry
from router.control.kinds import BY_CLASS, Kind, Stored
from router.control.records import (
    DataKeyRecord,
    Deletion,
    Garbage,
    JoinToken,
    MetaEntry,
    SealedProfile,
    Upload,
    VersionCounter,
)
from router.control.state import Change, Outcome, StateStore, Transaction

T = TypeVar("T", bound=Stored)
Subscriber = Callable[[Sequence[Change]], None]
__all__ = ["Catalog", "CatalogTransaction", "ModelEntry"]
_log = structlog.get_logger(__name__)


class Catalog:
    """All state of the control plane. Reads are plain dictionary look-ups; writes go through `transaction`."""

    def __init__(self, store: StateStore, *, wait_s: float = 5.0, shared: bool = False) -> None:
        """
        Args:
            store: Opened.
            wait_s: How long a write waits for its turn before it answers Unavailable.
            shared: Whether other processes write too: each transaction then starts from what they committed.
        """
        self._store = store
        self._shared = shared
        self._wait_s = wait_s
        self._turn = asyncio.Lock()
        self._index = Index({})
        self._rev = 0
        self._suspect = True
        self._loaded = False
        self._subscribers: list[Subscriber] = []

    @property
    def revision(self) -> int:
        """The store's revision that this face shows."""
        return self._rev

    async def open(self) -> None:
        """Reads everything; call once before use."""
        async with self._my_turn():
            await self._reload()

    def subscribe(self, callback: Subscriber) -> Callable[[], None]:
        """Calls `callback(changes)` on the loop after each commit; returns the way to stop that."""
        self._subscribers.append(callback)
        return lambda: self._subscribers.remove(callback)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[CatalogTransaction]:
        """One transaction; the catalog does not move under the block and shows it only after the commit.

        Raises:
            Conflict, AlreadyExists: See `state.Transaction`.
            Unavailable: The store does not answer.
        """
        async with self._my_turn():
            if self._suspect:
                await self._reload()
            tx: Transaction | None = None
            noted: CatalogTransaction | None = None
            try:
                async with self._store.transaction() as tx:
                    # Nobody else commits from here on.
                    if self._shared and await self._store.changes_since(self._rev):
                        await self._reload()
                    noted = CatalogTransaction(tx)
                    yield noted
            finally:
                if tx is not None and noted is not None:
                    self._settle(tx, noted)

    async def refresh(self) -> None:
        """Takes over what other processes committed since; cheap when there is nothing."""
        if self._suspect or await self._store.changes_since(self._rev):
            async with self._my_turn():
                await self._reload()

    def tenant(self, tenant_id: str) -> Tenant | None:
        return self._get(Tenant, tenant_id)

    def tenant_by_name(self, name: str) -> Tenant | None:
        return self._index.tenants_by_name.get(name)

    def tenants(self) -> Sequence[Tenant]:
        """By name."""
        return sorted(self._index.tenants_by_name.values(), key=lambda tenant: tenant.name)

    def key(self, key_id: str) -> ApiKey | None:
        return self._get(ApiKey, key_id)

    def keys(self, tenant_id: str) -> Sequence[ApiKey]:
        """Oldest first, revoked and expired ones included."""
        mine = [key for key in self._all(ApiKey) if key.tenant_id == tenant_id]
        return sorted(mine, key=lambda key: (key.created_at, key.id))

    def model(self, tenant_id: str, name: str) -> ModelEntry | None:
        return self._index.models.get(tenant_id, {}).get(name)

    def model_by_id(self, model_id: str) -> ModelEntry | None:
        model = self._get(Model, model_id)
        return None if model is None else self.model(model.tenant_id, model.name)

    def models(self, tenant_id: str | None = None) -> Sequence[ModelEntry]:
        """One tenant's by name, or everybody's."""
        if tenant_id is not None:
            return [entry for _, entry in sorted(self._index.models.get(tenant_id, {}).items())]
        return [entry for names in self._index.models.values() for entry in names.values()]

    def placement(self, placement_id: str) -> Placement | None:
        return self._get(Placement, placement_id)

    def placements(self) -> Sequence[Placement]:
        return self._all(Placement)

    def node(self, name: str) -> Node | None:
        return self._get(Node, name)

    def nodes(self) -> Sequence[Node]:
        return self._all(Node)

    def decisions(self, subject: str | None = None) -> Sequence[Decision]:
        """Newest first; of one subject, or all."""
        chosen = [one for one in self._all(Decision) if subject is None or one.subject == subject]
        return sorted(chosen, key=lambda one: (one.at, one.id), reverse=True)

    def events(self) -> Sequence[Event]:
        """Newest first."""
        return sorted(self._all(Event), key=lambda one: (one.at, one.id), reverse=True)

    def upload(self, upload_id: str) -> Upload | None:
        return self._get(Upload, upload_id)

    def uploads(self, tenant_id: str | None = None) -> Sequence[Upload]:
        return [one for one in self._all(Upload) if tenant_id in (None, one.tenant_id)]

    def profiles(self, model_id: str | None = None, version: int | None = None) -> Sequence[SealedProfile]:
        """Of all versions, of one model's, or of one version, sealed."""
        mine = [one for one in self._all(SealedProfile) if model_id in (None, one.model_id)]
        return [one for one in mine if version in (None, one.version)]

    def data_key(self, record_id: str) -> DataKeyRecord | None:
        return self._get(DataKeyRecord, record_id)

    def data_keys(self, tenant_id: str) -> Sequence[DataKeyRecord]:
        return [one for one in self._all(DataKeyRecord) if one.tenant_id == tenant_id]

    def counters(self, tenant_id: str) -> Sequence[VersionCounter]:
        return [one for one in self._all(VersionCounter) if one.tenant_id == tenant_id]

    def counter(self, tenant_id: str, model: str) -> VersionCounter | None:
        return self._get(VersionCounter, f"{tenant_id}/{model}")

    def join_token(self, token_id: str) -> JoinToken | None:
        return self._get(JoinToken, token_id)

    def join_tokens(self) -> Sequence[JoinToken]:
        return self._all(JoinToken)

    def deletion(self, tenant_id: str) -> Deletion | None:
        return self._get(Deletion, tenant_id)

    def deletions(self) -> Sequence[Deletion]:
        return self._all(Deletion)

    def garbage(self) -> Sequence[Garbage]:
        return self._all(Garbage)

    def meta(self, name: str) -> MetaEntry | None:
        return self._get(MetaEntry, name)

    def _get(self, cls: type[T], key: str) -> T | None:
        return cast("T | None", self._index.objects[_kind(cls)].get(key))

    def _all(self, cls: type[T]) -> list[T]:
        return cast("list[T]", list(self._index.objects[_kind(cls)].values()))

    @asynccontextmanager
    async def _my_turn(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._wait_s):
                await self._turn.acquire()
        except TimeoutError as failure:
            raise Unavailable(
                "another change is still being written; retry", reason=Reason.STORE_UNAVAILABLE, retry_after_s=1.0
            ) from failure
        try:
            yield
        finally:
            self._turn.release()

    async def _reload(self) -> None:
        snapshot = await self._store.load()
        changes = await self._store.changes_since(self._rev) if self._loaded else []
        self._index, self._rev = Index(snapshot.objects), snapshot.rev
        self._suspect, self._loaded = False, True
        self._tell([change for change in changes if change.rev <= snapshot.rev])

    def _settle(self, tx: Transaction, noted: CatalogTransaction) -> None:
        if tx.outcome is Outcome.COMMITTED:
            self._index.apply(noted.written)
            self._rev = max([self._rev, *(change.rev for change in tx.changes)])
            self._tell(tx.changes)
        elif tx.outcome is not Outcome.ROLLED_BACK:
            # The commit was sent and not answered: only the store knows, so the next write asks it first.
            self._suspect = True

    def _tell(self, changes: Sequence[Change]) -> None:
        if not changes:
            return
        for callback in tuple(self._subscribers):
            try:
                callback(changes)
            except Exception:
                _log.exception("catalog subscriber failed")


def _kind(cls: type[Any]) -> Kind:
    return BY_CLASS[cls].kind
