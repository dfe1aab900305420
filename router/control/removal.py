"""Deleting models and tenants, so that a crash at any point leaves something that the next start finishes.

A tenant's deletion is an intent in the store first. Then its keys are destroyed, then its rows go in one transaction
that also lists the stored bytes as garbage, then the bytes. Each step may be repeated.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import structlog

from partywall.domain.models import Version
from partywall.domain.tenants import Tenant, TenantState
from partywall.errors import NotFound, NotReady, PartywallError, Reason
from router.control.catalog import ModelEntry
from router.control.catalog_transaction import CatalogTransaction
from router.control.control import Control, in_thread, require_model, require_tenant
from router.control.records import Deletion, Garbage, Upload, upload_id_of

MOST_LISTED = 500
_log = structlog.get_logger(__name__)


class Step(enum.Enum):
    """Where a deletion may be cut off."""

    INTENT_WRITTEN = enum.auto()
    KEYS_SHREDDED = enum.auto()
    ROWS_REMOVED = enum.auto()
    BLOB_REMOVED = enum.auto()


@dataclass(frozen=True, slots=True)
class Removed:
    """What a deletion removed; bytes of ciphertext."""

    versions: int = 0
    keys_shredded: int = 0
    blob_bytes: int = 0


class Remover:
    """Deletes, and finishes what a crash cut off."""

    def __init__(self, control: Control, *, reached: Callable[[Step], None] = lambda step: None) -> None:
        """Args: `reached` is called after each step; what it raises cuts the deletion off there."""
        self._control = control
        self._reached = reached

    async def delete_tenant(self, name: str) -> Removed:
        """Destroys the tenant's keys, then its rows, then its blobs. After an error, call it again.

        Raises:
            NotFound: There is no such tenant.
        """
        catalog = self._control.catalog
        tenant = require_tenant(catalog, name)
        if catalog.deletion(tenant.id) is None:
            async with catalog.transaction() as tx:
                tenant = require_tenant(catalog, name)
                await tx.insert(Deletion(tenant.id, name, self._control.clock.now()))
                # The door closes in the same step: no request and no push of this tenant comes in from here on.
                await tx.update(replace(tenant, state=TenantState.SUSPENDED))
                await self._control.record("tenant.deletion_begun", tenant.id, name=name)
        self._reached(Step.INTENT_WRITTEN)
        return await self._finish(tenant.id)

    async def delete_model(self, tenant: Tenant, name: str, number: int) -> Removed:
        """Removes a model with all its versions (`number` 0), or one version that is not live.

        Raises:
            NotFound: No such model or version.
            NotReady: The version is the live one.
        """
        catalog = self._control.catalog
        async with catalog.transaction() as tx:
            entry = require_model(catalog, tenant, name)
            versions = list(entry.versions.values()) if number == 0 else [removable(entry, number)]
            uploads = [one for one in catalog.uploads(tenant.id) if number == 0 and one.model == name]
            await self._remove_versions(tx, versions)
            await self._remove_uploads(tx, uploads)
            if number == 0:
                await tx.delete(entry.model)
            elif entry.model.previous == number:
                await tx.update(replace(entry.model, previous=0))
            numbers = listed([one.number for one in versions])
            await self._control.record("model.deleted", tenant.id, model=name, versions=numbers)
        freed = await self.collect([one.artifact_id for one in versions] + [one.artifact_id for one in uploads])
        return Removed(versions=len(versions), blob_bytes=freed)

    async def remove_upload(self, upload: Upload) -> None:
        """Forgets an upload and what has arrived of it."""
        async with self._control.catalog.transaction() as tx:
            current = self._control.catalog.upload(upload.id)
            if current is not None:
                await self._remove_uploads(tx, [current])
        await self.collect([upload.artifact_id])

    async def resume(self) -> None:
        """Finishes deletions that a crash cut off, and removes left-over bytes; call at start and now and then."""
        for deletion in self._control.catalog.deletions():
            _log.info("finishing a deletion", tenant=deletion.name)
            await self._finish(deletion.tenant_id)
        await self.collect([one.id for one in self._control.catalog.garbage()])

    async def collect(self, ids: Iterable[str]) -> int:
        """Removes stored bytes that are listed as garbage; returns how many went. What fails stays listed."""
        freed = 0
        wanted = set(ids)
        for garbage in [one for one in self._control.catalog.garbage() if one.id in wanted]:
            try:
                freed += await self._discard(garbage)
            except (PartywallError, OSError) as failure:
                _log.warning("stored bytes not removed yet", artifact=garbage.id, error=str(failure))
        return freed

    async def _discard(self, garbage: Garbage) -> int:
        # Under either name: a crash between the blobs' commit and the row's leaves the files as an artifact.
        await self._control.blobs.abort(upload_id_of(garbage.id))
        freed = await self._control.blobs.delete(garbage.id)
        self._reached(Step.BLOB_REMOVED)
        async with self._control.catalog.transaction() as tx:
            await tx.delete(garbage)
        return freed

    async def _finish(self, tenant_id: str) -> Removed:
        receipt = await in_thread(self._control.keys.shred, tenant_id)
        fingerprints = ",".join(receipt.fingerprints) or "none left"
        await self._control.record("keys.shredded", tenant_id, fingerprints=fingerprints)
        self._reached(Step.KEYS_SHREDDED)
        versions, garbage = await self._remove_rows(tenant_id)
        self._reached(Step.ROWS_REMOVED)
        freed = await self.collect(garbage)
        return Removed(versions, len(receipt.fingerprints), freed)

    async def _remove_rows(self, tenant_id: str) -> tuple[int, list[str]]:
        catalog = self._control.catalog
        async with catalog.transaction() as tx:
            entries = catalog.models(tenant_id)
            versions = [version for entry in entries for version in entry.versions.values()]
            uploads = catalog.uploads(tenant_id)
            await self._remove_versions(tx, versions)
            await self._remove_uploads(tx, uploads)
            rest: list[Any] = [entry.model for entry in entries]
            rest += [*catalog.keys(tenant_id), *catalog.counters(tenant_id)]
            rest += [catalog.tenant(tenant_id), catalog.deletion(tenant_id)]
            for one in rest:
                if one is not None:
                    await tx.delete(one)
            await self._control.record("tenant.deleted", tenant_id, versions=len(versions))
        return len(versions), [one.artifact_id for one in versions] + [one.artifact_id for one in uploads]

    async def _remove_versions(self, tx: CatalogTransaction, versions: Iterable[Version]) -> None:
        catalog = self._control.catalog
        for version in versions:
            for placement in catalog.placements():
                if (placement.model_id, placement.version) == (version.model_id, version.number):
                    await tx.delete(placement)
            for profile in catalog.profiles(version.model_id, version.number):
                await tx.delete(profile)
            await tx.delete(version)
            await self._remove_data_key(tx, version.key_record_id)
            if version.files:
                await tx.insert(Garbage(version.artifact_id))

    async def _remove_uploads(self, tx: CatalogTransaction, uploads: Iterable[Upload]) -> None:
        for upload in uploads:
            await tx.delete(upload)
            await self._remove_data_key(tx, upload.key_record_id)
            await tx.insert(Garbage(upload.artifact_id))

    async def _remove_data_key(self, tx: CatalogTransaction, record_id: str) -> None:
        record = self._control.catalog.data_key(record_id)
        if record is not None:
            await tx.delete(record)


def listed(numbers: Sequence[int]) -> str:
    """Numbers for an audit row, whose size has a bound: those of a model that was pushed for years are told in part."""
    more = f",... ({len(numbers)} in all)" if len(numbers) > MOST_LISTED else ""
    return ",".join(map(str, numbers[:MOST_LISTED])) + more


def removable(entry: ModelEntry, number: int) -> Version:
    """The version, if it may go alone.

    Raises:
        NotFound: No such version.
        NotReady: It is live.
    """
    version = require_version(entry, number)
    if entry.model.live == number:
        name = entry.model.name
        raise NotReady(
            f"version {number} of model {name!r} is live; promote another one first, or delete the whole model with "
            f"`partywall models delete {name}`",
            reason=Reason.WRONG_STATE,
            fields={"field": "version", "model": name},
        )
    return version


def require_version(entry: ModelEntry, number: int) -> Version:
    """The version of that number.

    Raises:
        NotFound: MODEL_NOT_FOUND, with the numbers that exist.
    """
    version = entry.versions.get(number)
    if version is None:
        known = ", ".join(str(one) for one in entry.versions) or "none"
        raise NotFound(
            f"model {entry.model.name!r} has no version {number}; it has {known}",
            reason=Reason.MODEL_NOT_FOUND,
            fields={"field": "version", "model": entry.model.name},
        )
    return version
