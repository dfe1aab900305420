"""64 random bytes planted in the weights are found in the tenant's own folder only; a shredded backup is useless."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from e2e_instance import Instance
from mlp_model import MLP_OPTIONS, mlp_files
from safetensors.numpy import save_file

import partywall
from isolation.vault.keyfile import KeyFileProvider
from partywall.errors import DataLoss, Unauthenticated
from router.control.catalog import Catalog
from router.control.store import SqlStore

pytestmark = pytest.mark.e2e


def finds(canary: bytes, roots: list[Path], leave_out: Path, since: float) -> list[Path]:
    """Files changed since then that hold the canary; sparse and huge files are read in pieces."""
    found = []
    for root in roots:
        for folder, _, names in os.walk(root, onerror=None):
            if Path(folder).is_relative_to(leave_out):
                continue
            for name in names:
                path = Path(folder) / name
                try:
                    if (
                        path.is_file()
                        and not path.is_symlink()
                        and path.stat().st_mtime >= since - 5
                        and _holds(path, canary)
                    ):
                        found.append(path)
                except (FileNotFoundError, PermissionError):
                    continue
    return found


def _holds(path: Path, canary: bytes) -> bool:
    tail = b""
    with path.open("rb") as f:
        while piece := f.read(1 << 20):
            if canary in tail + piece:
                return True
            tail = piece[-len(canary) :]
    return False


def test_the_search_finds_what_is_there(tmp_path: Path) -> None:
    canary = os.urandom(64)
    (tmp_path / "x").write_bytes(bytes((1 << 20) - 30) + canary)
    assert finds(canary, [tmp_path], tmp_path / "none", 0) == [tmp_path / "x"]


def test_no_plaintext_anywhere_and_shredding_is_for_good(instance: Instance, tmp_path: Path) -> None:
    since = time.time()
    canary = os.urandom(64)
    source = tmp_path / "source"
    source.mkdir()
    weights = mlp_files()
    weights["0.bias"] = np.frombuffer(canary * 16, np.float32).copy()
    weights["0.bias"][~np.isfinite(weights["0.bias"])] = 0.0
    save_file(weights, source / "model.safetensors")
    planted = (source / "model.safetensors").read_bytes()
    at = planted.find(weights["0.bias"].tobytes())
    canary = planted[at : at + 64]
    assert len(set(canary)) > 30
    roots = [instance.data_dir, Path(tempfile.gettempdir()), Path("/dev/shm")]  # noqa: S108

    key = instance.tenant("secretive")
    assert finds(canary, roots, source, since) == []
    instance.push(key, "secret", source, *MLP_OPTIONS)
    with partywall.Client(instance.address, api_key=key) as c:
        for _ in range(20):
            c.infer("secret", {"x": np.ones((4, 16), np.float32)})
        assert finds(canary, roots, source, since) == []
        backup = tmp_path / "backup"
        shutil.copytree(instance.data_dir / "blobs", backup / "blobs")
        for part in instance.data_dir.glob("state.db*"):
            shutil.copy(part, backup)
        instance.run("tenants", "delete", "secretive", "--yes")
        with pytest.raises(Unauthenticated):
            c.infer("secret", {"x": np.ones((1, 16), np.float32)})
    assert finds(canary, roots, source, since) == []
    _restored_backup_is_useless(instance, backup)


def _restored_backup_is_useless(instance: Instance, backup: Path) -> None:
    import asyncio

    async def look() -> None:
        store = SqlStore.at(backup / "state.db")
        await store.open()
        catalog = Catalog(store)
        await catalog.open()
        tenant = catalog.tenant_by_name("secretive")
        assert tenant is not None
        version = catalog.models(tenant.id)[0].versions[1]
        record = catalog.data_key(version.key_record_id)
        assert record is not None
        assert (backup / "blobs" / version.artifact_id / "model.safetensors").stat().st_size > 0
        keys = KeyFileProvider(instance.data_dir / "root.key", instance.data_dir / "keys")
        with pytest.raises(DataLoss, match=r"destroyed|gone|no keys"):
            keys.unwrap(tenant.id, record.artifact_id, record.wrapped)
        await store.close()

    asyncio.run(look())
