"""SQLite only: what a full, locked, damaged or absent file gives, and that it is always an answer in time."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateTable

from partywall.domain.tenants import Tenant
from partywall.errors import NotReady, Reason, Unavailable
from router.control import codec
from router.control.kinds import SPECS, Kind, KindSpec
from router.control.records import MetaEntry
from router.control.schema import METADATA
from router.control.store import SqlStore

BOUND_S = 10.0
ACME = Tenant("t1", "acme", datetime(2026, 1, 1, tzinfo=UTC))


async def opened(path: Path, **bounds: float) -> SqlStore:
    store = SqlStore.at(path, **bounds)
    await store.open()
    return store


async def put(store: SqlStore, *values: Tenant | MetaEntry) -> None:
    async with store.transaction() as tx:
        for value in values:
            await tx.insert(value)


async def unavailable(store: SqlStore, value: Tenant | MetaEntry = ACME) -> None:
    started = time.monotonic()
    with pytest.raises(Unavailable) as caught:
        await put(store, value)
    assert caught.value.reason is Reason.STORE_UNAVAILABLE
    assert caught.value.retry_after_s is not None
    assert time.monotonic() - started < BOUND_S


async def test_settings_are_durable_and_wipe_deleted_rows(tmp_path: Path) -> None:
    store = await opened(tmp_path / "state.db")
    async with store._engine.connect() as connection:
        found = {
            name: (await connection.exec_driver_sql(f"PRAGMA {name}")).scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys", "secure_delete")
        }
    assert found == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "secure_delete": 1}
    await store.close()


async def test_state_survives_a_restart(tmp_path: Path) -> None:
    first = await opened(tmp_path / "state.db")
    await put(first, ACME)
    await first.close()
    second = await opened(tmp_path / "state.db")
    assert (await second.load()).objects[Kind.TENANT] == {"t1": ACME}
    await second.close()


async def test_what_was_committed_survives_without_a_close(tmp_path: Path) -> None:
    store = await opened(tmp_path / "state.db")
    await put(store, ACME)
    for suffix in ("", "-wal"):
        (tmp_path / f"copy.db{suffix}").write_bytes((tmp_path / f"state.db{suffix}").read_bytes())
    copy = await opened(tmp_path / "copy.db")
    assert (await copy.load()).objects[Kind.TENANT] == {"t1": ACME}
    await copy.close()
    await store.close()


async def test_a_locked_file_is_unavailable_in_time(tmp_path: Path) -> None:
    store = await opened(tmp_path / "state.db", busy_timeout_s=0.1)
    with closing(sqlite3.connect(tmp_path / "state.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        await unavailable(store)
        assert (await store.load()).rev == 0, "readers do not wait for a writer"
        other.execute("ROLLBACK")
    await put(store, ACME)
    await store.close()


async def test_a_statement_that_hangs_is_left_behind(tmp_path: Path) -> None:
    store = await opened(tmp_path / "state.db", operation_timeout_s=0.3, busy_timeout_s=1.5)
    with closing(sqlite3.connect(tmp_path / "state.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        await unavailable(store)
        other.execute("ROLLBACK")
    async with asyncio.timeout(10):
        while store._stuck or store._cleaning:
            await asyncio.wait({*store._stuck, *store._cleaning})
    await put(store, ACME)
    await store.close()


async def test_a_full_disk_is_unavailable_and_leaves_nothing_half_done(tmp_path: Path) -> None:
    store = await opened(tmp_path / "state.db")
    await put(store, ACME)
    async with store._engine.connect() as connection:
        pages = (await connection.exec_driver_sql("PRAGMA page_count")).scalar_one()
        await connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")
    await unavailable(store, MetaEntry("big", "x" * 1_000_000))
    snapshot = await store.load()
    assert (snapshot.objects[Kind.META], snapshot.rev) == ({}, 1)
    async with store._engine.connect() as connection:
        await connection.exec_driver_sql("PRAGMA max_page_count=1000000")
    await put(store, MetaEntry("big", "x" * 1_000_000))
    await store.close()


@pytest.mark.parametrize("content", [b"not a database" * 100, None], ids=["garbage", "a folder"])
async def test_a_damaged_file_is_refused_at_start(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "state.db"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    store = SqlStore.at(path)
    with pytest.raises(Unavailable, match=r"state\.db"):
        await store.open()
    await store.close()


async def test_damaged_pages_are_found_at_start(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    store = await opened(path)
    await put(store, *(MetaEntry(f"m{i}", "x" * 500) for i in range(100)))
    await store.close()
    data = bytearray(path.read_bytes())
    for offset in range(4096 * 2, len(data), 4096):
        data[offset : offset + 64] = bytes([0xFF]) * 64
    path.write_bytes(data)
    store = SqlStore.at(path)
    with pytest.raises(Unavailable, match=r"state\.db is damaged, restore it from its backup"):
        await store.open()
    await store.close()


async def test_a_newer_schema_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    store = SqlStore.at(path)
    await store.open()
    await store.close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999_later'")
        connection.commit()
    again = SqlStore.at(path)
    with pytest.raises(NotReady, match=r"9999_later.*newer Partywall.*install that version"):
        await again.open()
    await again.close()


async def test_migrations_lead_to_the_schema(tmp_path: Path) -> None:
    store = await opened(tmp_path / "state.db")
    await store.close()
    engine = create_engine(f"sqlite:///{tmp_path / 'state.db'}")
    with engine.connect() as connection:
        difference = compare_metadata(MigrationContext.configure(connection), METADATA)
    engine.dispose()
    assert difference == []


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.kind.value)
def test_tables_have_a_column_for_each_field(spec: KindSpec) -> None:
    table = METADATA.tables[spec.table]
    assert [column.name for column in table.columns] == list(codec.field_types(spec.cls))
    assert tuple(column.name for column in table.primary_key.columns) == spec.key
    assert ("rev" in table.columns) is spec.has_rev


@pytest.mark.parametrize("name", sorted(METADATA.tables))
def test_postgresql_takes_the_schema(name: str) -> None:
    statement = str(CreateTable(METADATA.tables[name]).compile(dialect=postgresql.dialect()))
    assert "BLOB" not in statement
    assert ("rev BIGSERIAL" in statement) is (name == "changes")
