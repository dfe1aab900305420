"""How many replicas the live version of a model has."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004_replicas"
down_revision = "0003_manoeuvres"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("models", sa.Column("replicas", sa.BigInteger(), server_default="1", nullable=False))
