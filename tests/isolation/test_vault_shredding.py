"""Crypto-shredding: a backup of blobs and state, put back after the tenant was deleted, opens nothing."""

from __future__ import annotations

import io
import json
import os
import shutil
import uuid
from pathlib import Path

import pytest

from isolation.vault.keyfile import KeyFileProvider, create_root
from isolation.vault.local_blobs import LocalBlobStore
from partywall.domain.models import SealedFile
from partywall.errors import DataLoss, Reason
from partywall.sealed import Context, DataKey, FileSource, SealedReader, Sealer

ARTIFACT, UPLOAD = "artifact-1", "upload-1"
CANARY = os.urandom(64)
PLAIN = os.urandom(5000) + CANARY + os.urandom(5000)


async def push(data: Path, tenant: str) -> SealedFile:
    """Seals and stores a file; the record of its key goes where the state database would be."""
    keys, blobs = KeyFileProvider(data / "root.key", data / "keys"), LocalBlobStore(data)
    keys.create_tenant(tenant)
    key, wrapped = keys.new_data_key(tenant, ARTIFACT)
    with DataKey(key) as held:
        sealer = Sealer(len(PLAIN), held.material, Context(tenant, "m", 1, "w"), str(uuid.UUID(int=1)))
    offset = 0
    for view in sealer.stream(io.BytesIO(PLAIN)):
        offset = await blobs.append(UPLOAD, "w", offset, view)
    await blobs.commit(UPLOAD, ARTIFACT, [sealer.sealed_file()])
    record = {"tenant": tenant, "wrapped": wrapped.hex()}
    (data / "state.db").write_text(json.dumps(record))
    return sealer.sealed_file()


def open_stored(data: Path, file: SealedFile) -> bytes:
    state = json.loads((data / "state.db").read_text())
    keys = KeyFileProvider(data / "root.key", data / "keys")
    key = keys.unwrap(state["tenant"], ARTIFACT, bytes.fromhex(state["wrapped"]))
    target = bytearray(file.plain_size)
    with FileSource(data / "blobs" / ARTIFACT / "w") as source:
        SealedReader(source, key, Context(state["tenant"], "m", 1, "w"), file.header_sha256).open_into(target)
    return bytes(target)


def contents_under(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in folder.rglob("*") if path.is_file()]


async def test_restored_backup_of_a_deleted_tenant_opens_nothing(tmp_path: Path) -> None:
    data, backup = tmp_path / "data", tmp_path / "backup"
    data.mkdir()
    create_root(data / "root.key")
    file = await push(data, "tenant-a")
    assert open_stored(data, file) == PLAIN
    shutil.copytree(data / "blobs", backup / "blobs")
    shutil.copy(data / "state.db", backup / "state.db")

    receipt = KeyFileProvider(data / "root.key", data / "keys").shred("tenant-a")
    assert len(receipt.fingerprints) == 1
    await LocalBlobStore(data).delete(ARTIFACT)
    shutil.copytree(backup / "blobs", data / "blobs", dirs_exist_ok=True)
    shutil.copy(backup / "state.db", data / "state.db")

    with pytest.raises(DataLoss, match="cannot be opened again by anyone") as gone:
        open_stored(data, file)
    assert gone.value.reason is Reason.KEYS_DESTROYED
    # Not with keys made anew for the same tenant id either.
    KeyFileProvider(data / "root.key", data / "keys").create_tenant("tenant-a")
    with pytest.raises(DataLoss):
        open_stored(data, file)


async def test_no_file_of_the_vault_holds_plaintext_or_the_data_key(tmp_path: Path) -> None:
    create_root(tmp_path / "root.key")
    file = await push(tmp_path, "tenant-a")
    state = json.loads((tmp_path / "state.db").read_text())
    keys = KeyFileProvider(tmp_path / "root.key", tmp_path / "keys")
    key = bytes(keys.unwrap("tenant-a", ARTIFACT, bytes.fromhex(state["wrapped"])))
    stored = contents_under(tmp_path)
    assert sum(len(data) for data in stored) > file.sealed_size
    for secret in (CANARY, CANARY[:16], key, key.hex().encode()):
        assert not any(secret in data for data in stored)
