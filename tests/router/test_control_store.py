"""One contract for every `StateStore`."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from partywall.domain.events import Event
from partywall.domain.fleet import Device, DeviceKind, Node, NodeState, Partition, PartitionKind
from partywall.domain.models import Manifest, Model, SealedFile, Signature, TensorSpec, Version, VersionState
from partywall.domain.placements import Alternative, Decision, Placement
from partywall.domain.tenants import ApiKey, Quota, Tenant, TenantState, TrustPolicy
from partywall.errors import AlreadyExists, Conflict
from router.control.kinds import SPECS, Kind, Stored, spec_of
from router.control.memory import MemoryStore
from router.control.records import (
    DataKeyRecord,
    DeclaredFile,
    Deletion,
    Garbage,
    JoinToken,
    MetaEntry,
    SealedProfile,
    Upload,
    VersionCounter,
)
from router.control.state import Outcome, StateStore
from router.control.store import SqlStore

AT = datetime(2026, 3, 4, 5, 6, 7, 123456, tzinfo=UTC)
MANIFEST = Manifest("module", {"architecture": "mlp", "ü": "ö"}, slo_ms=50, share_percent=25, max_batch=8)
ACME = Tenant("t-acme", "acme", AT, TenantState.SUSPENDED, Quota(requests_per_s=2.5, trust_policy=TrustPolicy.SHARED))
BERT = Model("m1", "t-acme", "bert", live=1)
BERT_1 = Version(
    "m1",
    1,
    "a1",
    MANIFEST,
    (SealedFile("w.safetensors", 10, 99, b"h" * 32, b"s" * 32),),
    "d1",
    AT,
    VersionState.READY,
    resident=True,
    signature=Signature((TensorSpec("x", "FP32", (-1, 4)),), (), max_batch=8),
    load_seconds=0.25,
)
SAMPLES: tuple[Stored, ...] = (
    ACME,
    ApiKey("k1", "t-acme", bytes(range(32)), AT, expires_at=AT),
    DataKeyRecord("d1", "t-acme", "a1", b"\x00wrapped\xff", AT),
    VersionCounter("t-acme", "bert", 3),
    BERT,
    BERT_1,
    Upload("u1", "t-acme", "bert", 2, "a2", MANIFEST, (DeclaredFile("w.safetensors", 10, 99),), "d1", AT),
    SealedProfile("m1", 1, "CPU x2", b"\x01sealed\xff", AT),
    Placement(
        "p1",
        "t-acme",
        "m1",
        1,
        "n1",
        Partition("c0", PartitionKind.CPUSET, "cpu", (0, 1), 50, 7),
        "w1",
        1 << 40,
        3,
        replaces="p0",
        weight=0.25,
    ),
    Node("n1", NodeState.ONLINE, "i1", (Device("cpu", DeviceKind.CPU, "CPU", 1 << 34, 2, (0, 1)),), AT, "0.1"),
    JoinToken("j1", "n2", b"d" * 32, AT),
    Decision("e1", "place", "t-acme/bert", "here", AT, (Alternative("n1", True, "fits", 1.5),), {"a": "b"}),
    Event("v1", AT, "device_fault", "n1", "Xid 31: a page fault", "GPU-1", "p1", 31),
    Deletion("t-gone", "gone", AT),
    Garbage("a9"),
    MetaEntry("epoch", "7"),
)


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[StateStore]:
    made: StateStore = MemoryStore() if request.param == "memory" else SqlStore.at(tmp_path / "state.db")
    await made.open()
    yield made
    await made.close()


async def fill(store: StateStore, *values: Stored) -> None:
    async with store.transaction() as tx:
        for value in values:
            await tx.insert(value)


async def held(store: StateStore, kind: Kind) -> dict[str, Stored]:
    return dict((await store.load()).objects[kind])


def test_every_kind_has_a_sample() -> None:
    assert {spec_of(value).kind for value in SAMPLES} == set(Kind) == {spec.kind for spec in SPECS}


async def test_what_goes_in_comes_out(store: StateStore) -> None:
    await fill(store, *SAMPLES)
    snapshot = await store.load()
    for value in SAMPLES:
        spec = spec_of(value)
        assert snapshot.objects[spec.kind] == {spec.key_of(value): value}
    assert snapshot.rev == len(SAMPLES)


async def test_each_write_is_a_numbered_change(store: StateStore) -> None:
    await fill(store, ACME)
    async with store.transaction() as tx:
        changed = await tx.update(replace(ACME, state=TenantState.ACTIVE))
        await tx.delete(changed)
    assert [(c.rev, c.kind, c.key) for c in await store.changes_since(1)] == [
        (2, Kind.TENANT, "t-acme"),
        (3, Kind.TENANT, "t-acme"),
    ]
    assert tx.outcome is Outcome.COMMITTED
    assert [c.rev for c in tx.changes] == [2, 3]


async def test_changes_keep_no_name_that_a_tenant_chose(store: StateStore) -> None:
    counter = VersionCounter("t-acme", "secret-model", 3)
    await fill(store, ACME, counter, replace(BERT, name="secret-model"))
    async with store.transaction() as tx:
        await tx.delete(await tx.update(counter))
    changes = await store.changes_since(1)
    assert [change.key for change in changes if change.kind is Kind.VERSION_COUNTER] == ["t-acme"] * 3
    assert "secret-model" not in repr(changes)


async def test_names_in_changes_of_an_older_state_go(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    store = SqlStore.at(path)
    await store.open()
    await store.close()
    with sqlite3.connect(path) as old:
        old.execute("UPDATE alembic_version SET version_num = '0006_share_by'")
        old.executemany(
            "INSERT INTO changes (kind, key) VALUES (?, ?)",
            [("version_counter", "t-acme/secret-model"), ("version_counter", "t-acme"), ("profile", "m1/1/CPU x2")],
        )
    old.close()
    store = SqlStore.at(path)
    await store.open()
    assert [change.key for change in await store.changes_since(0)] == ["t-acme", "t-acme", "m1/1/CPU x2"]
    await store.close()


async def test_update_compares_and_sets_rev(store: StateStore) -> None:
    await fill(store, ACME)
    async with store.transaction() as tx:
        assert (await tx.update(ACME)).rev == 1
    with pytest.raises(Conflict, match="changed or removed"):
        async with store.transaction() as tx:
            await tx.update(ACME)
    with pytest.raises(Conflict, match="changed or removed"):
        async with store.transaction() as tx:
            await tx.delete(ACME)


async def test_concurrent_updates_let_one_win(store: StateStore) -> None:
    await fill(store, ACME)

    async def suspend() -> bool:
        try:
            async with store.transaction() as tx:
                await tx.update(ACME)
        except Conflict:
            return False
        return True

    won = await asyncio.gather(*(suspend() for _ in range(8)))
    assert sum(won) == 1


async def test_updating_what_is_gone_is_a_conflict(store: StateStore) -> None:
    for verb in ("update", "delete"):
        with pytest.raises(Conflict):
            async with store.transaction() as tx:
                await getattr(tx, verb)(ACME)


@pytest.mark.parametrize(
    "twin",
    [ACME, replace(ACME, id="t-other"), replace(BERT, id="m2"), replace(BERT_1, number=9)],
    ids=["same id", "same tenant name", "same model name", "same artifact"],
)
async def test_taken_keys_and_names_are_refused(store: StateStore, twin: Stored) -> None:
    await fill(store, *SAMPLES)
    with pytest.raises(AlreadyExists, match="choose another"):
        await fill(store, twin)


@pytest.mark.parametrize("orphan", [SAMPLES[1], SAMPLES[2], SAMPLES[3], SAMPLES[4], SAMPLES[5], SAMPLES[7]])
async def test_what_refers_to_nothing_is_refused(store: StateStore, orphan: Stored) -> None:
    with pytest.raises(Conflict):
        await fill(store, orphan)


async def test_what_is_referred_to_stays(store: StateStore) -> None:
    await fill(store, *SAMPLES)
    for parent in (ACME, SAMPLES[2], SAMPLES[4], SAMPLES[5]):
        with pytest.raises(Conflict):
            async with store.transaction() as tx:
                await tx.delete(parent)


async def test_an_error_rolls_everything_back(store: StateStore) -> None:
    with pytest.raises(AlreadyExists):
        await fill(store, ACME, ACME)
    assert await held(store, Kind.TENANT) == {}
    assert list(await store.changes_since(0)) == []
    await fill(store, ACME)


async def test_a_cancelled_writer_leaves_the_store_usable(store: StateStore) -> None:
    entered = asyncio.Event()

    async def hang() -> None:
        async with store.transaction() as tx:
            await tx.insert(ACME)
            entered.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(hang())
    await asyncio.wait_for(entered.wait(), 5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await fill(store, ACME)
    assert set(await held(store, Kind.TENANT)) == {"t-acme"}


async def test_revisions_are_not_reused_after_pruning(store: StateStore) -> None:
    await fill(store, ACME)
    await fill(store, MetaEntry("a", "b"))
    await store.prune_changes(0)
    assert list(await store.changes_since(0)) == []
    await fill(store, MetaEntry("c", "d"))
    assert [c.rev for c in await store.changes_since(0)] == [3]
