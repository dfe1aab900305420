"""Recorded changes of version counters lose the models' names, which would outlive a deleted tenant there."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007_changes_without_names"
down_revision = "0006_share_by"
branch_labels = None
depends_on = None

_CHANGES = sa.table("changes", sa.column("rev", sa.BigInteger), sa.column("kind", sa.String), sa.column("key", sa.Text))


def upgrade() -> None:
    connection = op.get_bind()
    named = sa.select(_CHANGES.c.rev, _CHANGES.c.key).where(
        _CHANGES.c.kind == "version_counter", _CHANGES.c.key.contains("/")
    )
    for rev, key in connection.execute(named).all():
        kept = key.partition("/")[0]
        connection.execute(sa.update(_CHANGES).where(_CHANGES.c.rev == rev).values(key=kept))
