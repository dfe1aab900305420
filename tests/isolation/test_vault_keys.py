"""Key providers: one contract for every side."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from key_support import ARTIFACT, OTHER, TENANT, key_file_provider

from isolation.vault.keys import KeyProvider, MemoryKeyProvider
from isolation.vault.wrapping import fingerprint, kek_version_of
from partywall.errors import AlreadyExists, DataLoss, InvalidInput, Reason

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


def test_fingerprint_tells_keys_apart() -> None:
    assert fingerprint(bytes(32)) != fingerprint(bytes(31) + b"\1")
    assert len(fingerprint(bytes(32))) == 16
