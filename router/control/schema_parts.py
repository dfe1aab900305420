"""What the tables are made of: names of constraints, types of columns, and columns that many of them have."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKeyConstraint,
    Integer,
    MetaData,
    String,
)

METADATA = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)
ID = String(64)
NAME = String(128)
# SQLite numbers rows only where the key is INTEGER; PostgreSQL needs eight bytes.
REVISION = BigInteger().with_variant(Integer(), "sqlite")


def rev() -> Column[int]:
    """The revision that a change compares and sets."""
    return Column("rev", BigInteger, nullable=False)


def tenant() -> Column[str]:
    """The owner."""
    return Column("tenant_id", ID, nullable=False, index=True)


def to_tenant() -> ForeignKeyConstraint:
    """The owner is one of the tenants."""
    return ForeignKeyConstraint(["tenant_id"], ["tenants.id"])


def to_data_key() -> ForeignKeyConstraint:
    """The key is one of the wrapped ones."""
    return ForeignKeyConstraint(["key_record_id"], ["data_keys.id"])
