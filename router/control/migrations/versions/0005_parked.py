"""Placements that keep their weights without serving."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005_parked"
down_revision = "0004_replicas"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("placements", sa.Column("parked", sa.Boolean(), server_default=sa.false(), nullable=False))
