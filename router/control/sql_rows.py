"""Objects as rows of the tables."""

from __future__ import annotations

from typing import Any, cast

from sqlalchemy import Table, and_, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from router.control import codec
from router.control.kinds import SPECS, Kind, KindSpec, Stored
from router.control.schema import CHANGES, METADATA
from router.control.state import Snapshot


async def load_all(connection: AsyncConnection) -> Snapshot:
    """Everything there is, at one revision."""
    rev = (await connection.execute(select(func.coalesce(func.max(CHANGES.c.rev), 0)))).scalar_one()
    objects: dict[Kind, dict[str, Stored]] = {}
    for spec in SPECS:
        rows = (await connection.execute(select(table_of(spec)))).mappings().all()
        values = [codec.from_row(spec.cls, cast("Any", row)) for row in rows]
        objects[spec.kind] = {spec.key_of(value): value for value in values}
    return Snapshot(rev, objects)


def table_of(spec: KindSpec) -> Table:
    """Where objects of a kind lie."""
    return METADATA.tables[spec.table]


def same_row(spec: KindSpec, value: Stored) -> Any:
    """The condition that a row is this object, unchanged since it was read."""
    columns = (*spec.key, "rev") if spec.has_rev else spec.key
    return and_(*(table_of(spec).c[name] == getattr(value, name) for name in columns))
