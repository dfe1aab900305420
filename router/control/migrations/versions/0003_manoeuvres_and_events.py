"""Placements that replace others, by weight; events of nodes."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003_manoeuvres"
down_revision = "0002_profiles"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "events",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.String(length=128), nullable=False),
        sa.Column("node", sa.String(length=128), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("device_id", sa.String(length=128), nullable=False),
        sa.Column("placement_id", sa.String(length=64), nullable=False),
        sa.Column("code", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_events")),
    )
    op.add_column("placements", sa.Column("replaces", sa.String(length=64), server_default="", nullable=False))
    op.add_column("placements", sa.Column("weight", sa.Float(), server_default="1.0", nullable=False))
