"""What only a blob store of folders can get wrong: restarts, modes, links, removals that were interrupted."""

from __future__ import annotations

from pathlib import Path

import pytest
from blob_support import ARTIFACT, CONFIG, FILES, UPLOAD, WEIGHTS, WEIGHTS_DATA, everything_under, upload

from isolation.vault.local_blobs import LocalBlobStore
from partywall.errors import Unavailable


async def test_upload_goes_on_after_a_restart(tmp_path: Path) -> None:
    await LocalBlobStore(tmp_path).append(UPLOAD, WEIGHTS.name, 0, WEIGHTS_DATA[:777])
    store = LocalBlobStore(tmp_path)
    received = await store.received(UPLOAD, WEIGHTS.name)
    assert received == 777
    await store.append(UPLOAD, WEIGHTS.name, received, WEIGHTS_DATA[received:])
    await store.commit(UPLOAD, ARTIFACT, [WEIGHTS])
    folder = LocalBlobStore(tmp_path).local_dir(ARTIFACT)
    assert folder == tmp_path / "blobs" / ARTIFACT
    assert (folder / WEIGHTS.name).read_bytes() == WEIGHTS_DATA


async def test_folders_and_files_are_private(tmp_path: Path) -> None:
    store = LocalBlobStore(tmp_path)
    await upload(store)
    await store.commit(UPLOAD, ARTIFACT, FILES)
    for path in everything_under(tmp_path):
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path
    assert list((tmp_path / "uploads").iterdir()) == []


async def test_links_in_the_store_are_not_followed(tmp_path: Path) -> None:
    store = LocalBlobStore(tmp_path / "data")
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    await store.append(UPLOAD, "f", 0, b"x")
    (tmp_path / "data" / "uploads" / UPLOAD / "g").symlink_to(secret)
    with pytest.raises(Unavailable):
        await store.append(UPLOAD, "g", 6, b"more")
    (tmp_path / "data" / "blobs" / ARTIFACT).mkdir()
    (tmp_path / "data" / "blobs" / ARTIFACT / "g").symlink_to(secret)
    with pytest.raises(Unavailable):
        await store.read(ARTIFACT, "g", 0, 10)
    assert secret.read_bytes() == b"secret"


async def test_sweep_finishes_an_interrupted_removal(tmp_path: Path) -> None:
    store = LocalBlobStore(tmp_path)
    await upload(store)
    (tmp_path / "uploads" / UPLOAD).rename(tmp_path / "uploads" / ".trash-0")
    report = await store.sweep(set(), set(), 3600.0)
    assert report.bytes_removed == WEIGHTS.sealed_size + CONFIG.sealed_size
    assert list((tmp_path / "uploads").iterdir()) == []
