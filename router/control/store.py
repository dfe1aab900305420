"""`StateStore` on SQL: SQLite embedded, PostgreSQL where routers are many.

Every statement runs under one time bound in a task of its own: a disk that hangs costs its caller
STORE_UNAVAILABLE, never an endless wait, and the stuck connection is cleaned up behind.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar, cast

from sqlalchemy import delete, exc, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from router.control import codec
from router.control.database import make_engine, migrate, quick_check
from router.control.kinds import Kind, KindSpec, Stored, spec_of
from router.control.schema import CHANGES
from router.control.sql_errors import changed_meanwhile, integrity_error, unavailable
from router.control.sql_rows import load_all, same_row, table_of
from router.control.state import Change, Outcome, S, Snapshot

T = TypeVar("T")
# Reading a whole file and migrating it take longer than one statement.
OPEN_TIMEOUT_S = 60.0


class SqlStore:
    """State in one SQL database. One transaction at a time per store."""

    def __init__(self, url: str, *, operation_timeout_s: float = 5.0, busy_timeout_s: float = 2.0) -> None:
        """Args: `url` as SQLAlchemy has it; bounds for one statement, and for waiting on another process's lock."""
        self._engine: AsyncEngine = make_engine(url, busy_timeout_s, operation_timeout_s)
        self._operation_timeout_s = operation_timeout_s
        self._busy_timeout_s = busy_timeout_s
        self._writer = asyncio.Lock()
        self._stuck: set[asyncio.Task[Any]] = set()
        self._cleaning: set[asyncio.Task[None]] = set()

    @classmethod
    def at(cls, path: Path, *, operation_timeout_s: float = 5.0, busy_timeout_s: float = 2.0) -> SqlStore:
        """The SQLite file at `path`."""
        url = f"sqlite+aiosqlite:///{path}"
        return cls(url, operation_timeout_s=operation_timeout_s, busy_timeout_s=busy_timeout_s)

    async def open(self) -> None:
        """Checks the file and runs the migrations."""
        if self._engine.dialect.name == "sqlite":
            database = self._engine.url.database or ""
            await self._bounded(asyncio.to_thread(quick_check, database, self._busy_timeout_s), OPEN_TIMEOUT_S)
        async with self._connection(write=True) as connection:
            await self._bounded(migrate(connection), OPEN_TIMEOUT_S)
            await self._bounded(connection.commit())

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[SqlTransaction]:
        """See `StateStore.transaction`."""
        await self._take_turn()
        try:
            async with self._connection(write=True) as connection:
                tx = SqlTransaction(connection, self._bounded)
                try:
                    yield tx
                except BaseException:
                    tx.outcome = Outcome.ROLLED_BACK
                    raise
                tx.outcome = Outcome.UNKNOWN
                await self._bounded(tx.commit())
        finally:
            self._writer.release()

    async def load(self) -> Snapshot:
        """See `StateStore.load`."""
        async with self._connection(write=False) as connection:
            return await self._bounded(load_all(connection))

    async def changes_since(self, rev: int) -> Sequence[Change]:
        """See `StateStore.changes_since`."""
        query = select(CHANGES).where(CHANGES.c.rev > rev).order_by(CHANGES.c.rev)
        async with self._connection(write=False) as connection:
            rows = (await self._bounded(connection.execute(query))).mappings().all()
        return [Change(row["rev"], Kind(row["kind"]), row["key"]) for row in rows]

    async def prune_changes(self, keep: int) -> None:
        """See `StateStore.prune_changes`."""
        await self._take_turn()
        try:
            async with self._connection(write=True) as connection:
                newest = select(func.coalesce(func.max(CHANGES.c.rev), 0)).scalar_subquery()
                await self._bounded(connection.execute(delete(CHANGES).where(CHANGES.c.rev <= newest - keep)))
                await self._bounded(connection.commit())
        finally:
            self._writer.release()

    async def close(self) -> None:
        """Waits for stuck statements within the bound, then closes all connections."""
        if self._cleaning:
            await asyncio.wait(self._cleaning, timeout=self._operation_timeout_s)
        await self._engine.dispose()

    async def _take_turn(self) -> None:
        try:
            async with asyncio.timeout(self._operation_timeout_s):
                await self._writer.acquire()
        except TimeoutError as failure:
            raise unavailable("another write is still waiting for the disk") from failure

    @asynccontextmanager
    async def _connection(self, *, write: bool) -> AsyncIterator[AsyncConnection]:
        connection = self._engine.connect()
        try:
            await self._bounded(_start(connection, write))
            yield connection
        finally:
            await self._release(connection)

    async def _release(self, connection: AsyncConnection) -> None:
        """Rolls back what was not committed and gives the connection back, behind a stuck statement if need be."""

        async def clean() -> None:
            while self._stuck:
                await asyncio.wait(set(self._stuck))
            with suppress(exc.SQLAlchemyError, OSError):
                await connection.close()

        task = asyncio.create_task(clean())
        self._cleaning.add(task)
        task.add_done_callback(self._cleaning.discard)
        if not self._stuck:
            await asyncio.wait({task}, timeout=self._operation_timeout_s)

    async def _bounded(self, operation: Awaitable[T], timeout_s: float | None = None) -> T:
        """The result of a database operation, or a `PartywallError`, within the bound.

        A cancelled caller still waits for the statement (within the bound), so that no connection is left half-used
        and the outcome of a commit is known.
        """
        bound_s = timeout_s or self._operation_timeout_s
        task: asyncio.Task[T] = asyncio.create_task(_as_coroutine(operation))
        try:
            await asyncio.wait({task}, timeout=bound_s)
        except asyncio.CancelledError:
            try:
                await asyncio.wait({task}, timeout=bound_s)
            finally:
                self._leave_if_stuck(task)
            raise
        if self._leave_if_stuck(task):
            raise unavailable(f"no answer within {bound_s:g} s")
        try:
            return task.result()
        except exc.IntegrityError as failure:
            raise integrity_error(failure) from failure
        except (exc.SQLAlchemyError, OSError) as failure:
            raise unavailable(str(getattr(failure, "orig", None) or failure)) from failure

    def _leave_if_stuck(self, task: asyncio.Task[Any]) -> bool:
        if task.done():
            if not task.cancelled():
                task.exception()  # marks it as seen
            return False

        def forget(ended: asyncio.Task[Any]) -> None:
            self._stuck.discard(ended)
            if not ended.cancelled():
                ended.exception()

        self._stuck.add(task)
        task.add_done_callback(forget)
        return True


class SqlTransaction:
    """See `state.Transaction`."""

    def __init__(self, connection: AsyncConnection, bounded: Callable[[Awaitable[Any]], Awaitable[Any]]) -> None:
        self._connection = connection
        self._bounded = bounded
        self.outcome = Outcome.OPEN
        self.changes: list[Change] = []

    async def insert(self, value: S) -> S:
        spec = spec_of(value)
        await self._execute(insert(table_of(spec)).values(codec.to_row(value)))
        await self._record(spec, value)
        return value

    async def update(self, value: S) -> S:
        spec = spec_of(value)
        rev = cast("Any", value).rev
        after = cast("S", replace(cast("Any", value), rev=rev + 1))
        columns = {name: column for name, column in codec.to_row(after).items() if name not in spec.key}
        result = await self._execute(update(table_of(spec)).where(same_row(spec, value)).values(columns))
        self._one(result, spec, value)
        await self._record(spec, value)
        return after

    async def delete(self, value: Stored) -> None:
        spec = spec_of(value)
        self._one(await self._execute(delete(table_of(spec)).where(same_row(spec, value))), spec, value)
        await self._record(spec, value)

    async def commit(self) -> None:
        """Commits; runs under the store's bound."""
        await self._connection.commit()
        self.outcome = Outcome.COMMITTED

    async def _execute(self, statement: Any) -> Any:
        return await self._bounded(self._connection.execute(statement))

    async def _record(self, spec: KindSpec, value: Stored) -> None:
        key = spec.told_of(value)
        result = await self._execute(insert(CHANGES).values(kind=spec.kind.value, key=key))
        self.changes.append(Change(result.inserted_primary_key[0], spec.kind, key))

    def _one(self, result: Any, spec: KindSpec, value: Stored) -> None:
        if result.rowcount != 1:
            raise changed_meanwhile(spec, value)


async def _as_coroutine(operation: Awaitable[T]) -> T:
    return await operation


async def _start(connection: AsyncConnection, write: bool) -> None:
    await connection.start()
    if connection.dialect.name == "sqlite":
        await connection.execution_options(partywall_write=write)
    elif not write:
        await connection.execution_options(isolation_level="REPEATABLE READ")
    await connection.begin()
