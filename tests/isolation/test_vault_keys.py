"""Key providers: one contract for every side, and what only files can get wrong."""

from __future__ import annotations

import json
import os
import resource
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from isolation.vault.keyfile import KeyFileProvider, create_root, load_root
from isolation.vault.keys import KeyProvider, MemoryKeyProvider
from isolation.vault.wrapping import fingerprint, kek_version_of
from partywall.errors import AlreadyExists, DataLoss, InvalidInput, NotFound, PartywallError, Reason, Unavailable

TENANT, OTHER, ARTIFACT = "tenant-a", "tenant-b", "artifact-1"


def key_file_provider(folder: Path) -> KeyFileProvider:
    create_root(folder / "root.key")
    return KeyFileProvider(folder / "root.key", folder / "keys")


SIDES: dict[str, Callable[[Path], KeyProvider]] = {
    "files": key_file_provider,
    "memory": lambda _: MemoryKeyProvider(),
}


@pytest.fixture(params=SIDES)
def provider(request: pytest.FixtureRequest, tmp_path: Path) -> KeyProvider:
    side = SIDES[request.param](tmp_path)
    side.create_tenant(TENANT)
    side.create_tenant(OTHER)
    return side


def test_data_key_comes_back(provider: KeyProvider) -> None:
    key, wrapped = provider.new_data_key(TENANT, ARTIFACT)
    assert len(key) == 32
    assert any(key)
    assert bytes(key) not in wrapped
    assert provider.unwrap(TENANT, ARTIFACT, wrapped) == key
    again, _ = provider.new_data_key(TENANT, ARTIFACT)
    assert again != key


def test_record_opens_only_where_it_belongs(provider: KeyProvider) -> None:
    _, wrapped = provider.new_data_key(TENANT, ARTIFACT)
    flipped = wrapped[:-1] + bytes([wrapped[-1] ^ 1])
    for tenant, artifact, record in (
        (OTHER, ARTIFACT, wrapped),
        (TENANT, "artifact-2", wrapped),
        (TENANT, ARTIFACT, flipped),
        (TENANT, ARTIFACT, wrapped[:-1]),
        (TENANT, ARTIFACT, b""),
        (TENANT, ARTIFACT, b"\x02" + wrapped[1:]),
    ):
        with pytest.raises(DataLoss) as refused:
            provider.unwrap(tenant, artifact, record)
        assert refused.value.reason is Reason.SEAL_BROKEN


def test_rotation_keeps_old_records_and_rewraps_them(provider: KeyProvider) -> None:
    key, old = provider.new_data_key(TENANT, ARTIFACT)
    assert provider.rotate(TENANT) == 2
    assert provider.unwrap(TENANT, ARTIFACT, old) == key
    new = provider.rewrap(TENANT, ARTIFACT, old)
    assert (kek_version_of(old), kek_version_of(new)) == (1, 2)
    assert provider.unwrap(TENANT, ARTIFACT, new) == key
    assert kek_version_of(provider.new_data_key(TENANT, ARTIFACT)[1]) == 2
    relabelled = old[:4] + b"\x02" + old[5:]
    with pytest.raises(DataLoss):
        provider.unwrap(TENANT, ARTIFACT, relabelled)


def test_retired_version_opens_nothing(provider: KeyProvider) -> None:
    key, old = provider.new_data_key(TENANT, ARTIFACT)
    provider.rotate(TENANT)
    new = provider.rewrap(TENANT, ARTIFACT, old)
    assert len(provider.retire(TENANT, 2).fingerprints) == 1
    assert provider.unwrap(TENANT, ARTIFACT, new) == key
    with pytest.raises(DataLoss, match="key version 1") as gone:
        provider.unwrap(TENANT, ARTIFACT, old)
    assert gone.value.reason is Reason.KEYS_DESTROYED
    with pytest.raises(InvalidInput, match="rotate first"):
        provider.retire(TENANT, 3)
    assert provider.unwrap(TENANT, ARTIFACT, new) == key


def test_shredded_tenant_is_gone_and_others_are_not(provider: KeyProvider) -> None:
    _, wrapped = provider.new_data_key(TENANT, ARTIFACT)
    kept, others = provider.new_data_key(OTHER, ARTIFACT)
    provider.rotate(TENANT)
    receipt = provider.shred(TENANT)
    assert receipt.tenant_id == TENANT
    assert len(set(receipt.fingerprints)) == 2
    calls: tuple[Callable[[], object], ...] = (
        lambda: provider.unwrap(TENANT, ARTIFACT, wrapped),
        lambda: provider.new_data_key(TENANT, ARTIFACT),
        lambda: provider.rotate(TENANT),
        lambda: provider.rewrap(TENANT, ARTIFACT, wrapped),
        lambda: provider.retire(TENANT, 1),
    )
    for call in calls:
        with pytest.raises(DataLoss, match="destroyed") as gone:
            call()
        assert gone.value.reason is Reason.KEYS_DESTROYED
    assert provider.unwrap(OTHER, ARTIFACT, others) == kept
    assert provider.shred(TENANT).fingerprints == ()
    # The same name again is another tenant as far as keys go.
    provider.create_tenant(TENANT)
    with pytest.raises(DataLoss):
        provider.unwrap(TENANT, ARTIFACT, wrapped)


def test_second_creation_leaves_the_keys(provider: KeyProvider) -> None:
    key, wrapped = provider.new_data_key(TENANT, ARTIFACT)
    with pytest.raises(AlreadyExists, match="new tenant id"):
        provider.create_tenant(TENANT)
    assert provider.unwrap(TENANT, ARTIFACT, wrapped) == key


@pytest.mark.parametrize("bad", ["", "..", "../x", "a/b", ".hidden", "a\0b", "a\n", "x" * 129])
def test_ids_cannot_leave_the_folder(provider: KeyProvider, bad: str) -> None:
    calls: tuple[Callable[[], object], ...] = (
        lambda: provider.create_tenant(bad),
        lambda: provider.new_data_key(bad, ARTIFACT),
        lambda: provider.new_data_key(TENANT, bad),
        lambda: provider.unwrap(TENANT, bad, b""),
        lambda: provider.shred(bad),
    )
    for call in calls:
        with pytest.raises(InvalidInput, match="is not an id"):
            call()


def test_callers_wiping_their_copy_changes_nothing(provider: KeyProvider) -> None:
    key, wrapped = provider.new_data_key(TENANT, ARTIFACT)
    expected = bytes(key)
    key[:] = bytes(32)
    opened = provider.unwrap(TENANT, ARTIFACT, wrapped)
    assert opened == expected
    opened[:] = bytes(32)
    assert provider.unwrap(TENANT, ARTIFACT, wrapped) == expected


def test_threads_share_a_provider(provider: KeyProvider) -> None:
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for _ in range(10):
                key, wrapped = provider.new_data_key(TENANT, f"artifact-{number}")
                assert provider.unwrap(TENANT, f"artifact-{number}", wrapped) == key
                provider.rotate(TENANT)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
        assert not thread.is_alive()
    assert not failures
    assert provider.rotate(TENANT) == 32


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


@pytest.fixture
def full_disk() -> Iterator[None]:
    """No file of this process may grow: every write fails."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_full_disk_leaves_the_old_keys(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    provider = key_file_provider(tmp_path)
    provider.create_tenant(TENANT)
    key, wrapped = provider.new_data_key(TENANT, ARTIFACT)
    before = sorted(tmp_path.rglob("*"))
    request.getfixturevalue("full_disk")
    calls: tuple[Callable[[], object], ...] = (
        lambda: provider.rotate(TENANT),
        lambda: provider.create_tenant(OTHER),
        lambda: create_root(tmp_path / "other.key"),
    )
    for call in calls:
        with pytest.raises(Unavailable) as full:
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


def test_fingerprint_tells_keys_apart() -> None:
    assert fingerprint(bytes(32)) != fingerprint(bytes(31) + b"\1")
    assert len(fingerprint(bytes(32))) == 16
