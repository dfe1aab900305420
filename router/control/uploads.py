"""Pushing a version: a data key and a number first, then ciphertext in any number of tries, then one commit.

Until the commit nothing of it is visible; after it the version is whole. A commit whose answer was lost can be asked
for again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from partywall.domain.models import Manifest, Model, SealedFile, Version, VersionState
from partywall.domain.names import check_model_name
from partywall.domain.tenants import Tenant
from partywall.errors import Conflict, NotFound, NotReady, QuotaExceeded, Reason
from partywall.sealed import wipe
from router.control.artifact_rules import check_files, check_manifest
from router.control.catalog import Catalog, ModelEntry
from router.control.catalog_transaction import CatalogTransaction
from router.control.control import Control, in_thread, require_model, require_standing
from router.control.records import DataKeyRecord, DeclaredFile, Upload, VersionCounter, upload_id_of
from router.control.removal import Remover
from router.control.upload_rules import announced, check_declared, committed, model_bytes_used, too_long
from router.control.versions import make_live

STALE_AFTER = timedelta(hours=24)
MAX_OPEN_UPLOADS = 32
MAX_VERSION = (1 << 32) - 1


@dataclass(frozen=True, slots=True, repr=False)
class Begun:
    """An upload and the data key that seals it; the caller wipes the key."""

    upload: Upload
    data_key: bytearray


class Uploads:
    """The push flow of all tenants."""

    def __init__(self, control: Control, remover: Remover) -> None:
        self._control = control
        self._remover = remover
        # The stream that may write to a file: a newer one, or a question how far it got, ends the older one.
        self._writers: dict[tuple[str, str], object] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    async def begin(self, tenant: Tenant, model: str, manifest: Manifest, files: Sequence[tuple[str, int]]) -> Begun:
        """Checks what is announced and gives it a number and a data key.

        Args:
            files: Name and size in clear, bytes.

        Raises:
            InvalidInput, ArtifactRefused: See `artifact_rules`.
            QuotaExceeded: MODEL_BYTES_EXCEEDED.
            NotReady: Too many open uploads, or the tenant is being deleted.
        """
        check_model_name(model)
        check_manifest(manifest)
        declared = check_files(manifest.engine, files)
        control = self._control
        self._check_room(tenant, declared)
        artifact_id = control.make_id()
        key, wrapped = await in_thread(control.keys.new_data_key, tenant.id, artifact_id)
        now = control.clock.now()
        record = DataKeyRecord(control.make_id(), tenant.id, artifact_id, wrapped, now)
        upload_id = upload_id_of(artifact_id)
        try:
            async with control.catalog.transaction() as tx:
                self._check_room(tenant, declared)
                number = await _next_number(tx, control.catalog, tenant, model)
                upload = Upload(upload_id, tenant.id, model, number, artifact_id, manifest, declared, record.id, now)
                await tx.insert(record)
                await tx.insert(upload)
        except BaseException:
            wipe(key)
            raise
        return Begun(upload, key)

    def find(self, tenant: Tenant, upload_id: str) -> Upload:
        """The tenant's own upload.

        Raises:
            NotFound: There is none; another tenant's reads the same.
        """
        upload = self._control.catalog.upload(upload_id)
        if upload is None or upload.tenant_id != tenant.id:
            raise NotFound(
                f"upload {upload_id[:80]!r} does not exist: it was committed, aborted, or left for a day; push again",
                fields={"field": "upload_id"},
            )
        return upload

    async def received(self, upload: Upload) -> list[tuple[DeclaredFile, int]]:
        """Bytes that have arrived of each file. Ends the streams that still write: who asks wants to go on himself."""
        async with self._lock(upload.id):
            for file in upload.files:
                self._writers.pop((upload.id, file.name), None)
            blobs = self._control.blobs
            return [(file, await blobs.received(upload.id, file.name)) for file in upload.files]

    async def receive(self, upload: Upload, name: str, offset: int, chunks: AsyncIterator[bytes]) -> int:
        """Appends ciphertext of one file from `offset` on; returns the bytes that have arrived of it.

        Raises:
            InvalidInput: The file was not announced, or more bytes come than it has.
            Conflict: `offset` is not what has arrived (`fields["received"]` is), or a newer stream took over.
            Unavailable: STORAGE_FULL; what had arrived is kept.
        """
        file = announced(upload, name)
        me = object()
        self._writers[(upload.id, name)] = me
        try:
            async for data in chunks:
                if offset + len(data) > file.sealed_size:
                    raise too_long(file)
                async with self._lock(upload.id):
                    if self._writers.get((upload.id, name)) is not me:
                        raise Conflict(f"another stream has taken over file {name!r}; ask GetUpload where to go on")
                    self._check_still_there(upload)
                    offset = await self._control.blobs.append(upload.id, name, offset, data)
            return await self._control.blobs.received(upload.id, name)
        finally:
            if self._writers.get((upload.id, name)) is me:
                del self._writers[(upload.id, name)]

    async def commit(self, tenant: Tenant, upload_id: str, files: Sequence[SealedFile], *, promote: bool) -> ModelEntry:
        """Makes the version exist and asks for a place for it. Asking again after a success answers the same.

        Raises:
            ArtifactRefused: A file is missing, cut off, not sealed or other than declared; the upload stays.
            NotFound: No such upload.
        """
        catalog = self._control.catalog
        done = committed(catalog, tenant, upload_id)
        if done is not None:
            return done
        upload = self.find(tenant, upload_id)
        require_standing(catalog, tenant)
        check_declared(upload, files)
        async with self._lock(upload_id):
            if files:
                await self._control.blobs.commit(upload_id, upload.artifact_id, tuple(files))
            async with catalog.transaction() as tx:
                upload = self.find(tenant, upload_id)
                await self._add_version(tx, tenant, upload, tuple(files), promote)
                await tx.delete(upload)
                await self._control.record(
                    "version.pushed", tenant.id, model=upload.model, version=upload.version, artifact=upload.artifact_id
                )
        self._locks.pop(upload_id, None)
        return require_model(catalog, tenant, upload.model)

    async def abort(self, tenant: Tenant, upload_id: str) -> None:
        """Forgets an upload and what has arrived of it.

        Raises:
            NotFound: No such upload.
        """
        upload = self.find(tenant, upload_id)
        async with self._lock(upload_id):
            await self._remover.remove_upload(upload)
        self._locks.pop(upload_id, None)

    async def sweep(self) -> int:
        """Forgets uploads that began a day ago or earlier; returns how many."""
        oldest = self._control.clock.now() - STALE_AFTER
        stale = [upload for upload in self._control.catalog.uploads() if upload.created_at <= oldest]
        for upload in stale:
            async with self._lock(upload.id):
                await self._remover.remove_upload(upload)
            self._locks.pop(upload.id, None)
        return len(stale)

    def _lock(self, upload_id: str) -> asyncio.Lock:
        return self._locks.setdefault(upload_id, asyncio.Lock())

    def _check_still_there(self, upload: Upload) -> None:
        if self._control.catalog.upload(upload.id) is None:
            raise NotFound(f"upload {upload.id!r} was committed or aborted meanwhile; push again")

    def _check_room(self, tenant: Tenant, declared: Sequence[DeclaredFile]) -> None:
        catalog = self._control.catalog
        current = require_standing(catalog, catalog.tenant(tenant.id) or tenant)
        uploads = catalog.uploads(tenant.id)
        if len(uploads) >= MAX_OPEN_UPLOADS:
            raise NotReady(
                f"{len(uploads)} uploads are open, which is the limit; commit or abort some, or wait a day",
                reason=Reason.WRONG_STATE,
                fields={"field": "upload"},
            )
        limit = current.quota.model_bytes
        used = model_bytes_used(catalog, tenant.id) + sum(upload.plain_bytes for upload in uploads)
        wanted = sum(file.plain_size for file in declared)
        if limit is not None and used + wanted > limit:
            raise QuotaExceeded(
                f"quota.model_bytes is {limit}, {used} are used and {wanted} more are announced; delete versions "
                "(`partywall models delete`) or ask the operator for more (`partywall quota set`)",
                reason=Reason.MODEL_BYTES_EXCEEDED,
                fields={"field": "quota.model_bytes", "limit": str(limit), "used": str(used), "wanted": str(wanted)},
            )

    async def _add_version(
        self, tx: CatalogTransaction, tenant: Tenant, upload: Upload, files: tuple[SealedFile, ...], promote: bool
    ) -> None:
        entry = self._control.catalog.model(tenant.id, upload.model)
        if entry is None:
            model = await tx.insert(Model(self._control.make_id(), tenant.id, upload.model))
            entry = ModelEntry(model, {})
        version = Version(
            model_id=entry.model.id,
            number=upload.version,
            artifact_id=upload.artifact_id,
            manifest=upload.manifest,
            files=files,
            key_record_id=upload.key_record_id,
            created_at=self._control.clock.now(),
            state=VersionState.PENDING,
            resident=True,
        )
        await tx.insert(version)
        if promote or entry.live is None:
            await make_live(tx, entry, version)


async def _next_number(tx: CatalogTransaction, catalog: Catalog, tenant: Tenant, model: str) -> int:
    counter = catalog.counter(tenant.id, model)
    if counter is None:
        return (await tx.insert(VersionCounter(tenant.id, model, 1))).last
    if counter.last >= MAX_VERSION:
        raise NotReady(f"model {model!r} has used all version numbers; push under another name")
    return (await tx.update(replace(counter, last=counter.last + 1))).last
