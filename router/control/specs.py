"""A version as an agent gets it: what it is, where its sealed files are, and the key that opens them."""

from __future__ import annotations

from isolation.vault.keys import KeyProvider
from partywall.domain.models import Version
from partywall.domain.tenants import Tenant
from partywall.sealed import wipe
from partywall.v1 import agent_link_pb2 as link
from partywall.wire import convert
from router.control.catalog import Catalog


def version_spec(tenant: Tenant, model: str, version: Version, data_key: bytes) -> link.PlacementSpec:
    """The part of a placement's spec that does not depend on where it stands."""
    return link.PlacementSpec(
        tenant_id=tenant.id,
        tenant=tenant.name,
        model=model,
        version=version.number,
        manifest=convert.manifest_to_proto(version.manifest),
        artifact_id=version.artifact_id,
        files=[convert.sealed_file_to_proto(f) for f in version.files],
        data_key=data_key,
    )


def data_key_of(catalog: Catalog, keys: KeyProvider, tenant: Tenant, version: Version) -> bytes:
    """The data key of a version's files, for a message that goes out over mTLS; empty where it has none. Blocks.

    Raises:
        DataLoss: The tenant's keys are destroyed, or the record is damaged.
    """
    record = catalog.data_key(version.key_record_id) if version.files else None
    if record is None:
        return b""
    key = keys.unwrap(tenant.id, record.artifact_id, record.wrapped)
    try:
        return bytes(key)
    finally:
        wipe(key)
