"""The engine under the store: connection settings, the check at start, migrations."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, event
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from partywall.errors import NotReady, Reason

MIGRATIONS = "router.control:migrations"
CONNECTIONS = 4
PRAGMAS = ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "secure_delete=ON")


def make_engine(url: str, busy_timeout_s: float, wait_s: float) -> AsyncEngine:
    """An engine whose SQLite connections are durable, bounded in waiting and wipe what they delete."""
    engine = create_async_engine(url, pool_size=CONNECTIONS, max_overflow=0, pool_timeout=wait_s)
    if engine.dialect.name == "sqlite":
        _settle_sqlite(engine, round(busy_timeout_s * 1e3))
    return engine


def quick_check(database: str, busy_timeout_s: float) -> None:
    """Reads a SQLite file's structure, on a connection of its own; blocks. A file that is not there is fine.

    Raises:
        OSError: It cannot be opened or is damaged.
    """
    try:
        with closing(sqlite3.connect(database, timeout=busy_timeout_s)) as connection:
            verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    except sqlite3.Error as failure:
        raise OSError(str(failure)) from failure
    if verdict != "ok":
        raise OSError(f"the file is damaged: {verdict}")


async def migrate(connection: AsyncConnection) -> None:
    """Brings the schema to the newest migration, inside the connection's transaction.

    Raises:
        NotReady: A newer Partywall has written it.
    """
    await connection.run_sync(_upgrade)


def _upgrade(connection: Connection) -> None:
    config = Config()
    config.set_main_option("script_location", MIGRATIONS)
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    found = MigrationContext.configure(connection).get_current_revision()
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if found is not None and found not in known:
        raise NotReady(
            f"the state database has schema {found!r}, which this version does not know: a newer Partywall has written "
            "it; install that version again, or restore a backup of the data directory from before",
            reason=Reason.WRONG_STATE,
            fields={"field": "data_dir", "schema": found},
        )
    command.upgrade(config, "head")


def _settle_sqlite(engine: AsyncEngine, busy_timeout_ms: int) -> None:
    @event.listens_for(engine.sync_engine, "connect")
    def connected(connection: Any, _record: Any) -> None:
        # Transactions are begun below, explicitly: the driver's own begin would leave DDL and reads outside.
        connection.isolation_level = None
        cursor = connection.cursor()
        try:
            for pragma in (f"busy_timeout={busy_timeout_ms}", *PRAGMAS):
                cursor.execute(f"PRAGMA {pragma}")
            cursor.close()
        except BaseException:
            connection.close()
            raise

    @event.listens_for(engine.sync_engine, "begin")
    def begun(connection: Connection) -> None:
        write = connection.get_execution_options().get("partywall_write", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")
