"""The engine under the store: connection settings, the check at start, migrations."""

from __future__ import annotations

from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, event, exc, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

MIGRATIONS = "router.control:migrations"
CONNECTIONS = 4


def make_engine(url: str, busy_timeout_s: float, wait_s: float) -> AsyncEngine:
    """An engine whose SQLite connections are durable, bounded in waiting and wipe what they delete."""
    engine = create_async_engine(url, pool_size=CONNECTIONS, max_overflow=0, pool_timeout=wait_s)
    if engine.dialect.name == "sqlite":
        _settle_sqlite(engine, round(busy_timeout_s * 1e3))
    return engine


async def quick_check(connection: AsyncConnection) -> None:
    """Reads a SQLite file's structure.

    Raises:
        sqlalchemy.exc.OperationalError: It is damaged.
    """
    if connection.dialect.name != "sqlite":
        return
    verdict = (await connection.execute(text("PRAGMA quick_check(1)"))).scalar_one()
    if verdict != "ok":
        raise exc.OperationalError("PRAGMA quick_check", None, ValueError(f"the file is damaged: {verdict}"))


async def migrate(connection: AsyncConnection) -> None:
    """Brings the schema to the newest migration, inside the connection's transaction."""
    await connection.run_sync(_upgrade)


def _upgrade(connection: Connection) -> None:
    config = Config()
    config.set_main_option("script_location", MIGRATIONS)
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _settle_sqlite(engine: AsyncEngine, busy_timeout_ms: int) -> None:
    @event.listens_for(engine.sync_engine, "connect")
    def connected(connection: Any, _record: Any) -> None:
        # Transactions are begun below, explicitly: the driver's own begin would leave DDL and reads outside.
        connection.isolation_level = None
        cursor = connection.cursor()
        for pragma in (
            f"busy_timeout={busy_timeout_ms}",
            "journal_mode=WAL",
            "synchronous=FULL",
            "foreign_keys=ON",
            "secure_delete=ON",
        ):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def begun(connection: Connection) -> None:
        write = connection.get_execution_options().get("partywall_write", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")
