"""Who chose the share that a placement has."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006_share_by"
down_revision = "0005_parked"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("placements", sa.Column("share_by", sa.String(128), server_default="", nullable=False))
