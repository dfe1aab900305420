"""What only keys in files can get wrong: modes, damage, links, full disks, and what a shredding leaves behind."""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from key_support import ARTIFACT, OTHER, TENANT, key_file_provider

from isolation.vault.keyfile import KeyFileProvider, create_root, load_root
from partywall.errors import AlreadyExists, DataLoss, InvalidInput, NotFound, PartywallError, Reason, Unavailable


def test_files_survive_a_restart_and_need_their_root(tmp_path: Path) -> None:
    first = key_file_provider(tmp_path)
    first.create_tenant(TENANT)
    key, wrapped = first.new_data_key(TENANT, ARTIFACT)
    assert KeyFileProvider(tmp_path / "root.key", tmp_path / "keys").unwrap(TENANT, ARTIFACT, wrapped) == key
    create_root(tmp_path / "other.key")
    stranger = KeyFileProvider(tmp_path / "other.key", tmp_path / "keys")
    with pytest.raises(DataLoss, match="does not authenticate"):
        stranger.unwrap(TENANT, ARTIFACT, wrapped)


def test_files_are_private_and_hold_no_key(tmp_path: Path) -> None:
    provider = key_file_provider(tmp_path)
    provider.create_tenant(TENANT)
    provider.rotate(TENANT)
    assert (tmp_path / "keys").stat().st_mode & 0o777 == 0o700
    files = [tmp_path / "root.key", *(tmp_path / "keys").iterdir()]
    assert sorted(f.name for f in files) == ["root.key", "tenant-a.json"]
    assert all(f.stat().st_mode & 0o777 == 0o600 for f in files)
    assert len(set(provider.shred(TENANT).fingerprints)) == 2


def test_root_key_is_never_overwritten(tmp_path: Path) -> None:
    create_root(tmp_path / "root.key")
    before = load_root(tmp_path / "root.key")
    with pytest.raises(AlreadyExists, match="is kept"):
        create_root(tmp_path / "root.key")
    assert load_root(tmp_path / "root.key") == before
    with pytest.raises(Unavailable, match="cannot be written"):
        create_root(tmp_path / "absent" / "root.key")


@pytest.mark.parametrize(
    ("spoil", "error", "words"),
    [
        (lambda p: p.chmod(0o640), InvalidInput, "chmod 600"),
        (lambda p: p.chmod(0o604), InvalidInput, "chmod 600"),
        (lambda p: p.write_bytes(bytes(31)), InvalidInput, "32 bytes"),
        (lambda p: p.write_bytes(bytes(33)), InvalidInput, "32 bytes"),
        (lambda p: (p.unlink(), p.mkdir()), InvalidInput, "plain file"),
        (lambda p: p.unlink(), NotFound, "partywall init"),
        (lambda p: (p.unlink(), p.symlink_to(p)), Unavailable, "cannot be read"),
    ],
    ids=["group", "others", "short", "long", "folder", "absent", "circle of links"],
)
def test_root_key_that_is_not_as_it_must_be(
    tmp_path: Path, spoil: Callable[[Path], object], error: type[PartywallError], words: str
) -> None:
    create_root(tmp_path / "root.key")
    spoil(tmp_path / "root.key")
    with pytest.raises(error, match=words):
        KeyFileProvider(tmp_path / "root.key", tmp_path / "keys")


@pytest.mark.parametrize(
    "text",
    [
        b"{",
        b"[]",
        b'{"format": 2, "tenant_id": "tenant-a", "keks": {}}',
        b'{"format": 1, "tenant_id": "tenant-b", "keks": {}}',
        b'{"format": 1, "tenant_id": "tenant-a", "keks": {"1": "zz"}}',
        b'{"format": 1, "tenant_id": "tenant-a", "keks": {"1": "00"}}',
    ],
)
def test_damaged_key_file_is_told_apart_from_a_destroyed_one(tmp_path: Path, text: bytes) -> None:
    provider = key_file_provider(tmp_path)
    provider.create_tenant(TENANT)
    path = tmp_path / "keys" / "tenant-a.json"
    path.write_bytes(text)
    with pytest.raises(DataLoss, match=r"damaged|does not authenticate") as refused:
        provider.new_data_key(TENANT, ARTIFACT)
    assert refused.value.reason is Reason.SEAL_BROKEN
    provider.shred(TENANT)
    assert not path.exists()


def test_another_tenants_key_file_in_its_place_opens_nothing(tmp_path: Path) -> None:
    provider = key_file_provider(tmp_path)
    provider.create_tenant(TENANT)
    provider.create_tenant(OTHER)
    folder = tmp_path / "keys"
    document = json.loads((folder / "tenant-b.json").read_text())
    document["tenant_id"] = TENANT
    (folder / "tenant-a.json").write_text(json.dumps(document))
    with pytest.raises(DataLoss, match="does not authenticate"):
        provider.new_data_key(TENANT, ARTIFACT)


def test_interrupted_shredding_is_a_shredding_and_can_be_finished(tmp_path: Path) -> None:
    provider = key_file_provider(tmp_path)
    provider.create_tenant(TENANT)
    _, wrapped = provider.new_data_key(TENANT, ARTIFACT)
    path = tmp_path / "keys" / "tenant-a.json"
    left = tmp_path / "keys" / (".tenant-a.json." + "0" * 32)
    left.write_bytes(path.read_bytes())
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(DataLoss) as gone:
        provider.unwrap(TENANT, ARTIFACT, wrapped)
    assert gone.value.reason is Reason.KEYS_DESTROYED
    provider.shred(TENANT)
    assert list((tmp_path / "keys").iterdir()) == []


def test_shredding_and_rotation_overwrite_what_was_there(tmp_path: Path) -> None:
    """A second name for the same blocks shows what is left in them."""
    provider = key_file_provider(tmp_path)
    provider.create_tenant(TENANT)
    path = tmp_path / "keys" / "tenant-a.json"
    for number, act in enumerate((provider.rotate, provider.shred)):
        witness = tmp_path / f"witness-{number}"
        os.link(path, witness)
        assert witness.read_bytes().strip(b"\0")
        act(TENANT)
        assert witness.stat().st_size > 0
        assert not witness.read_bytes().strip(b"\0")


@contextmanager
def full_disk() -> Iterator[None]:
    """No file of this process may grow: every write fails, the test runner's own too, so keep it short."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_full_disk_leaves_the_old_keys(tmp_path: Path) -> None:
    provider = key_file_provider(tmp_path)
    provider.create_tenant(TENANT)
    key, wrapped = provider.new_data_key(TENANT, ARTIFACT)
    before = sorted(tmp_path.rglob("*"))
    calls: tuple[Callable[[], object], ...] = (
        lambda: provider.rotate(TENANT),
        lambda: provider.create_tenant(OTHER),
        lambda: create_root(tmp_path / "other.key"),
    )
    for call in calls:
        with pytest.raises(Unavailable) as full, full_disk():
            call()
        assert full.value.reason is Reason.STORAGE_FULL
    assert sorted(tmp_path.rglob("*")) == before
    assert provider.unwrap(TENANT, ARTIFACT, wrapped) == key


def test_key_file_that_cannot_be_read_or_destroyed_is_not_a_destroyed_one(tmp_path: Path) -> None:
    provider = key_file_provider(tmp_path)
    (tmp_path / "keys" / "tenant-a.json").mkdir()
    for call in (lambda: provider.rotate(TENANT), lambda: provider.shred(TENANT)):
        with pytest.raises(Unavailable) as failed:
            call()
        assert failed.value.reason is Reason.STORE_UNAVAILABLE
