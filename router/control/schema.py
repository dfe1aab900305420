"""The tables, for SQLite and PostgreSQL alike. Migrations under `migrations/` lead here step by step.

Times are microseconds since 1970 in UTC (a BIGINT reads the same on both); nested values are JSON text.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKeyConstraint,
    LargeBinary,
    Table,
    Text,
    UniqueConstraint,
    false,
)

from router.control.schema_parts import ID, METADATA, NAME, REVISION, rev, tenant, to_data_key, to_tenant

__all__ = ["CHANGES", "METADATA"]

Table(
    "tenants",
    METADATA,
    Column("id", ID, primary_key=True),
    Column("name", NAME, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("state", NAME, nullable=False),
    Column("quota", Text, nullable=False),
    rev(),
    UniqueConstraint("name"),
)
Table(
    "api_keys",
    METADATA,
    Column("id", ID, primary_key=True),
    tenant(),
    Column("digest", LargeBinary(32), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger),
    Column("revoked_at", BigInteger),
    Column("last_used_at", BigInteger),
    rev(),
    to_tenant(),
)
Table(
    "data_keys",
    METADATA,
    Column("id", ID, primary_key=True),
    tenant(),
    Column("artifact_id", ID, nullable=False),
    Column("wrapped", LargeBinary, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    rev(),
    to_tenant(),
    UniqueConstraint("artifact_id"),
)
Table(
    "version_counters",
    METADATA,
    Column("tenant_id", ID, primary_key=True),
    Column("model", NAME, primary_key=True),
    Column("last", BigInteger, nullable=False),
    rev(),
    to_tenant(),
)
Table(
    "models",
    METADATA,
    Column("id", ID, primary_key=True),
    tenant(),
    Column("name", NAME, nullable=False),
    Column("live", BigInteger, nullable=False),
    Column("previous", BigInteger, nullable=False),
    rev(),
    Column("replicas", BigInteger, nullable=False, server_default="1"),
    to_tenant(),
    UniqueConstraint("tenant_id", "name"),
)
Table(
    "versions",
    METADATA,
    Column("model_id", ID, primary_key=True),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("artifact_id", ID, nullable=False),
    Column("manifest", Text, nullable=False),
    Column("files", Text, nullable=False),
    Column("key_record_id", ID, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("state", NAME, nullable=False),
    Column("reason", Text, nullable=False),
    Column("resident", Boolean, nullable=False),
    Column("signature", Text),
    Column("memory_bytes", BigInteger, nullable=False),
    Column("load_seconds", Float, nullable=False),
    rev(),
    ForeignKeyConstraint(["model_id"], ["models.id"]),
    to_data_key(),
    UniqueConstraint("artifact_id"),
)
Table(
    "uploads",
    METADATA,
    Column("id", ID, primary_key=True),
    tenant(),
    Column("model", NAME, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("artifact_id", ID, nullable=False),
    Column("manifest", Text, nullable=False),
    Column("files", Text, nullable=False),
    Column("key_record_id", ID, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    rev(),
    to_tenant(),
    to_data_key(),
    UniqueConstraint("artifact_id"),
)
Table(
    "profiles",
    METADATA,
    Column("model_id", ID, primary_key=True),
    Column("version", BigInteger, primary_key=True, autoincrement=False),
    Column("device", NAME, primary_key=True),
    Column("sealed", LargeBinary, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    rev(),
    ForeignKeyConstraint(["model_id", "version"], ["versions.model_id", "versions.number"]),
)
Table(
    "placements",
    METADATA,
    Column("id", ID, primary_key=True),
    tenant(),
    Column("model_id", ID, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("node", NAME, nullable=False),
    Column("partition", Text, nullable=False),
    Column("worker_id", ID, nullable=False),
    Column("memory_bytes", BigInteger, nullable=False),
    Column("generation", BigInteger, nullable=False),
    Column("reason", Text, nullable=False),
    Column("replaces", ID, nullable=False, server_default=""),
    Column("weight", Float, nullable=False, server_default="1.0"),
    rev(),
    Column("parked", Boolean, nullable=False, server_default=false()),
    Column("share_by", NAME, nullable=False, server_default=""),
    to_tenant(),
    ForeignKeyConstraint(["model_id", "version"], ["versions.model_id", "versions.number"]),
)
Table(
    "nodes",
    METADATA,
    Column("name", NAME, primary_key=True),
    Column("state", NAME, nullable=False),
    Column("incarnation", ID, nullable=False),
    Column("devices", Text, nullable=False),
    Column("last_seen_at", BigInteger),
    Column("version", NAME, nullable=False),
    rev(),
)
Table(
    "join_tokens",
    METADATA,
    Column("id", ID, primary_key=True),
    Column("node", NAME, nullable=False),
    Column("digest", LargeBinary(32), nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("used_at", BigInteger),
    rev(),
)
Table(
    "decisions",
    METADATA,
    Column("id", ID, primary_key=True),
    Column("kind", NAME, nullable=False),
    Column("subject", Text, nullable=False),
    Column("summary", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("alternatives", Text, nullable=False),
    Column("inputs", Text, nullable=False),
)
Table(
    "events",
    METADATA,
    Column("id", ID, primary_key=True),
    Column("at", BigInteger, nullable=False),
    Column("kind", NAME, nullable=False),
    Column("node", NAME, nullable=False),
    Column("message", Text, nullable=False),
    Column("device_id", NAME, nullable=False),
    Column("placement_id", ID, nullable=False),
    Column("code", BigInteger, nullable=False),
)
Table(
    "deletions",
    METADATA,
    Column("tenant_id", ID, primary_key=True),
    Column("name", NAME, nullable=False),
    Column("requested_at", BigInteger, nullable=False),
    rev(),
)
Table(
    "garbage",
    METADATA,
    Column("id", ID, primary_key=True),
    rev(),
)
Table(
    "meta",
    METADATA,
    Column("name", NAME, primary_key=True),
    Column("value", Text, nullable=False),
    rev(),
)
CHANGES = Table(
    "changes",
    METADATA,
    Column("rev", REVISION, primary_key=True, autoincrement=True),
    Column("kind", NAME, nullable=False),
    Column("key", Text, nullable=False),
    # Without AUTOINCREMENT SQLite gives the highest revision again once its row is pruned.
    sqlite_autoincrement=True,
)
