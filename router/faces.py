"""The catalog and the fleet as other rooms want to see them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

from router.control.catalog import Catalog
from router.control.membership import Membership
from router.gateway.replicas import ModelRoute, build_routes


class Names:
    """Ids to names, for what people read."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def tenant_name(self, tenant_id: str) -> str:
        tenant = self._catalog.tenant(tenant_id)
        return tenant.name if tenant else tenant_id

    def model_name(self, model_id: str) -> str:
        entry = self._catalog.model_by_id(model_id)
        return entry.model.name if entry else model_id


class Grants:
    """An agent reads the artifacts that are placed on it, and no others."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def may_fetch(self, node: str, artifact_id: str) -> bool:
        for placement in self._catalog.placements():
            if placement.node != node:
                continue
            entry = self._catalog.model_by_id(placement.model_id)
            version = entry.versions.get(placement.version) if entry else None
            if version is not None and version.artifact_id == artifact_id:
                return True
        return False


class Routes:
    """The routing table, rebuilt when the catalog or the fleet changed."""

    def __init__(self, catalog: Catalog, membership: Membership) -> None:
        self._catalog = catalog
        self._membership = membership
        self._stale = True
        self._table: dict[tuple[str, str], ModelRoute] = {}

    def invalidate(self) -> None:
        self._stale = True

    def __call__(self) -> Mapping[tuple[str, str], ModelRoute]:
        if self._stale:
            self._stale = False
            self._table = build_routes(self._catalog.models(), self._membership.replica_runtimes())
        return self._table


class Keeper(Protocol):
    """Keeps what stands, and who is called how, in line with the store: the reconciler, or a follower."""

    def kick(self) -> None:
        """Asks for a pass soon."""
        ...

    async def run(self) -> None: ...


def every_name(catalog: Catalog) -> Iterator[tuple[str, str, str]]:
    """(tenant id, tenant, model) of everything there is; a tenant without models has one without a name."""
    for tenant in catalog.tenants():
        yield tenant.id, tenant.name, ""
        for entry in catalog.models(tenant.id):
            yield tenant.id, tenant.name, entry.model.name
