"""The catalog equals the store after each commit, and survives what the store does not answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from partywall.domain.models import Manifest, Model, Version, VersionState
from partywall.domain.placements import Decision
from partywall.domain.tenants import ApiKey, Tenant
from partywall.errors import Conflict, Unavailable
from router.control.catalog import Catalog
from router.control.kinds import Kind, Stored
from router.control.memory import MemoryStore
from router.control.records import DataKeyRecord, MetaEntry
from router.control.state import Change, Outcome, Transaction

AT = datetime(2026, 1, 1, tzinfo=UTC)
ACME = Tenant("t1", "acme", AT)
KEY = DataKeyRecord("d1", "t1", "a1", b"w", AT)
BERT = Model("m1", "t1", "bert", live=1)
V1 = Version("m1", 1, "a1", Manifest("identity"), (), "d1", AT)


@pytest.fixture
async def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
async def catalog(store: MemoryStore) -> Catalog:
    made = Catalog(store, wait_s=0.2)
    await made.open()
    return made


async def put(catalog: Catalog, *values: Stored) -> None:
    async with catalog.transaction() as tx:
        for value in values:
            await tx.insert(value)


async def seed(catalog: Catalog) -> None:
    await put(catalog, ACME, KEY, BERT, V1)


async def test_reads_follow_the_commit_not_the_block(catalog: Catalog) -> None:
    async with catalog.transaction() as tx:
        await tx.insert(ACME)
        assert catalog.tenant("t1") is None
    assert catalog.tenant("t1") is catalog.tenant_by_name("acme") is not None
    assert catalog.revision == 1


async def test_model_entries_follow_their_versions(catalog: Catalog) -> None:
    await seed(catalog)
    entry = catalog.model("t1", "bert")
    assert entry is not None
    assert entry.live == V1
    async with catalog.transaction() as tx:
        await tx.update(replace(V1, state=VersionState.READY))
    assert entry.versions[1].state is VersionState.STORED, "an entry is a value of its commit"
    fresh = catalog.model_by_id("m1")
    assert fresh is not None
    assert fresh.versions[1].state is VersionState.READY
    assert catalog.models("t1") == catalog.models() == [fresh]


async def test_removed_models_and_tenants_vanish(catalog: Catalog) -> None:
    await seed(catalog)
    async with catalog.transaction() as tx:
        for value in (V1, BERT, KEY, ACME):
            await tx.delete(value)
    assert catalog.model("t1", "bert") is None
    assert catalog.models() == []
    assert catalog.tenants() == []


async def test_a_renamed_tenant_leaves_no_trace_under_its_old_name(catalog: Catalog) -> None:
    await seed(catalog)
    async with catalog.transaction() as tx:
        await tx.update(replace(ACME, name="acme2"))
    assert catalog.tenant_by_name("acme") is None
    assert catalog.tenant_by_name("acme2") is not None


async def test_a_failed_transaction_shows_nothing(catalog: Catalog) -> None:
    heard: list[Change] = []
    catalog.subscribe(heard.extend)
    with pytest.raises(Conflict):
        await put(catalog, ACME, BERT, V1)
    assert catalog.tenants() == []
    assert heard == []


async def test_subscribers_hear_each_commit_until_they_leave(catalog: Catalog) -> None:
    heard: list[Sequence[Change]] = []

    def broken(changes: Sequence[Change]) -> None:
        raise RuntimeError("a subscriber's defect")

    catalog.subscribe(broken)
    leave = catalog.subscribe(heard.append)
    await seed(catalog)
    leave()
    async with catalog.transaction() as tx:
        await tx.delete(V1)
    assert [[(c.kind, c.key) for c in changes] for changes in heard] == [
        [(Kind.TENANT, "t1"), (Kind.DATA_KEY, "d1"), (Kind.MODEL, "m1"), (Kind.VERSION, "m1/1")]
    ]


async def test_keys_and_decisions_come_in_order(catalog: Catalog) -> None:
    await seed(catalog)
    later = AT.replace(hour=1)
    async with catalog.transaction() as tx:
        await tx.insert(ApiKey("k2", "t1", b"2", later))
        await tx.insert(ApiKey("k1", "t1", b"1", AT))
        await tx.insert(Decision("e1", "place", "s", "old", AT))
        await tx.insert(Decision("e2", "place", "s", "new", later))
        await tx.insert(Decision("e3", "place", "other", "new", later))
    assert [key.id for key in catalog.keys("t1")] == ["k1", "k2"]
    assert [one.id for one in catalog.decisions("s")] == ["e2", "e1"]
    assert len(catalog.decisions()) == 3


async def test_reads_go_on_while_the_store_is_away(catalog: Catalog, store: MemoryStore) -> None:
    await seed(catalog)
    store.fail()
    with pytest.raises(Unavailable):
        async with catalog.transaction() as tx:
            await tx.delete(V1)
    assert catalog.model("t1", "bert") is not None
    store.fail(False)
    async with catalog.transaction() as tx:
        await tx.delete(V1)


async def test_refresh_takes_over_other_processes_writes(catalog: Catalog, store: MemoryStore) -> None:
    heard: list[Change] = []
    catalog.subscribe(heard.extend)
    async with store.transaction() as tx:
        await tx.insert(ACME)
    await catalog.refresh()
    assert catalog.tenant("t1") == ACME
    assert [c.rev for c in heard] == [1]


async def test_a_writer_that_hangs_does_not_hang_the_others(catalog: Catalog) -> None:
    entered, leave = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        async with catalog.transaction():
            entered.set()
            await leave.wait()

    task = asyncio.create_task(hold())
    await asyncio.wait_for(entered.wait(), 5)
    with pytest.raises(Unavailable, match="retry"):
        await seed(catalog)
    leave.set()
    await task
    await seed(catalog)


class LostAnswer(MemoryStore):
    """Commits, and loses the answer on the way back."""

    lose = False

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:  # type: ignore[override]
        async with super().transaction() as tx:
            yield tx
        if self.lose:
            tx.outcome = Outcome.UNKNOWN
            raise Unavailable("lost")


async def test_a_commit_without_an_answer_is_looked_up() -> None:
    store = LostAnswer()
    catalog = Catalog(store)
    await catalog.open()
    heard: list[Change] = []
    catalog.subscribe(heard.extend)
    store.lose = True
    with pytest.raises(Unavailable):
        async with catalog.transaction() as tx:
            await tx.insert(ACME)
    assert catalog.tenant("t1") is None
    store.lose = False
    async with catalog.transaction() as tx:
        assert catalog.tenant("t1") == ACME
        await tx.insert(MetaEntry("a", "b"))
    assert [c.key for c in heard] == ["t1", "a"]


async def test_what_another_process_wrote_is_known_in_the_next_transaction() -> None:
    store = MemoryStore()
    mine, others = Catalog(store, shared=True), Catalog(store, shared=True)
    await mine.open()
    await others.open()
    told: list[Change] = []
    mine.subscribe(told.extend)
    await seed(others)
    assert mine.tenant("t1") is None
    async with mine.transaction() as tx:
        assert mine.tenant("t1") == ACME
        await tx.update(replace(ACME, name="acme2"))
    assert [change.kind for change in told] == [Kind.TENANT, Kind.DATA_KEY, Kind.MODEL, Kind.VERSION, Kind.TENANT]
    # Nothing of the other's is skipped for having written last.
    assert mine.model("t1", "bert") is not None
    await others.refresh()
    assert others.tenant_by_name("acme2") is not None
    assert others.revision == mine.revision
