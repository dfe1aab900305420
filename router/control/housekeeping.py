"""What is done now and then: deletions finished, stale uploads and old records dropped, key use written down."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import structlog

from partywall.errors import Conflict, PartywallError
from router.control.control import Control
from router.control.kinds import Stored
from router.control.removal import Remover
from router.control.state import StateStore
from router.control.uploads import STALE_AFTER, Uploads

KEY_USE_EVERY = timedelta(minutes=1)
DECISIONS_PER_SUBJECT = 50
EVENTS_KEPT = 1_000
CHANGES_KEPT = 10_000
TOKENS_KEPT_FOR = timedelta(days=1)
_log = structlog.get_logger(__name__)


class KeyUse:
    """When each API key was last used: noted at each request in memory, written at most once a minute."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._seen: dict[str, float] = {}

    def note(self, key_id: str) -> None:
        """The key opened the door now; a dictionary write."""
        self._seen[key_id] = self._control.clock.monotonic()

    async def write(self) -> None:
        """Stores what changed by a minute or more."""
        seen, self._seen = self._seen, {}
        catalog, clock = self._control.catalog, self._control.clock
        now, now_s = clock.now(), clock.monotonic()
        due = []
        for key_id, seen_s in seen.items():
            at = now - timedelta(seconds=now_s - seen_s)
            key = catalog.key(key_id)
            if key is not None and (key.last_used_at is None or at - key.last_used_at >= KEY_USE_EVERY):
                due.append(replace(key, last_used_at=at))
        if due:
            async with catalog.transaction() as tx:
                for key in due:
                    await tx.update(key)


class Housekeeper:
    """One round does everything that is due; a part that fails is tried again in the next round."""

    def __init__(
        self,
        control: Control,
        store: StateStore,
        remover: Remover,
        uploads: Uploads,
        key_use: KeyUse,
        *,
        leads: bool = True,
    ) -> None:
        """A router process that does not lead (`leads` False) writes down the use of keys and nothing else."""
        self._control = control
        self._store = store
        self._remover = remover
        self._uploads = uploads
        self._key_use = key_use
        self._leads = leads

    async def run(self, every_s: float = 60.0) -> None:
        """Rounds until cancelled, the first at once: it finishes what a crash cut off."""
        while True:
            await self.round()
            await asyncio.sleep(every_s)

    async def round(self) -> None:
        """All parts once; never raises a `PartywallError`."""
        parts = (
            self._remover.resume,
            self._uploads.sweep,
            self._sweep_blobs,
            self._key_use.write,
            self._drop_old,
            self._prune,
        )
        for part in parts if self._leads else (self._key_use.write,):
            try:
                await part()
            except (PartywallError, OSError) as failure:
                _log.warning("housekeeping failed; trying again later", part=part.__name__, error=str(failure))

    async def _sweep_blobs(self) -> None:
        """Removes stored bytes that no row knows, a day after they were last touched."""
        catalog = self._control.catalog
        uploads = {upload.id for upload in catalog.uploads()}
        arriving = {upload.artifact_id for upload in catalog.uploads()}
        versions = {version.artifact_id for entry in catalog.models() for version in entry.versions.values()}
        report = await self._control.blobs.sweep(versions | arriving, uploads, STALE_AFTER.total_seconds())
        if report.bytes_removed:
            _log.warning("removed stored bytes that belonged to nothing", bytes=report.bytes_removed)

    async def _drop_old(self) -> None:
        old = self._old()
        for start in range(0, len(old), 100):
            try:
                async with self._control.catalog.transaction() as tx:
                    for one in old[start : start + 100]:
                        await tx.delete(one)
            except Conflict:
                continue

    def _old(self) -> Sequence[Stored]:
        catalog = self._control.catalog
        counts: dict[str, int] = {}
        old: list[Stored] = []
        for decision in catalog.decisions():
            counts[decision.subject] = counts.get(decision.subject, 0) + 1
            if counts[decision.subject] > DECISIONS_PER_SUBJECT or catalog.model_by_id(decision.subject) is None:
                old.append(decision)
        oldest = self._control.clock.now() - TOKENS_KEPT_FOR
        old += catalog.events()[EVENTS_KEPT:]
        return [*old, *(token for token in catalog.join_tokens() if token.expires_at < oldest)]

    async def _prune(self) -> None:
        await self._store.prune_changes(CHANGES_KEPT)
