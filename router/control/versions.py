"""Which version is live and which are resident: desired state only, the reconcile loop does the rest."""

from __future__ import annotations

from dataclasses import replace

from partywall.domain.models import Version, VersionState
from partywall.domain.tenants import Tenant
from partywall.errors import NotReady, Reason
from router.control.catalog import ModelEntry
from router.control.catalog_transaction import CatalogTransaction
from router.control.control import Control, require_model, require_standing
from router.control.removal import require_version

# A version in one of these states needs no new attempt when it is asked to be resident.
_UNDER_WAY = (VersionState.PENDING, VersionState.LOADING, VersionState.READY)


class Versions:
    """Promotes, rolls back, makes resident and releases. Each method is one transaction."""

    def __init__(self, control: Control) -> None:
        self._control = control

    async def promote(self, tenant: Tenant, name: str, number: int) -> ModelEntry:
        """Makes a version live; promoting the live one is fine.

        Raises:
            NotFound: No such model or version.
        """
        catalog = self._control.catalog
        async with catalog.transaction() as tx:
            entry = require_model(catalog, require_standing(catalog, tenant), name)
            version = require_version(entry, number)
            if entry.model.live != number:
                await make_live(tx, entry, await make_resident(tx, version))
                await self._control.record("version.promoted", tenant.id, model=name, version=number)
        return require_model(catalog, tenant, name)

    async def rollback(self, tenant: Tenant, name: str) -> ModelEntry:
        """Makes the version live again that was live before.

        Raises:
            NotReady: There is none.
        """
        catalog = self._control.catalog
        async with catalog.transaction() as tx:
            entry = require_model(catalog, require_standing(catalog, tenant), name)
            previous = entry.versions.get(entry.model.previous)
            if previous is None:
                raise NotReady(
                    f"model {name!r} has no earlier live version to go back to; promote one with "
                    f"`partywall models promote {name} VERSION`",
                    reason=Reason.WRONG_STATE,
                    fields={"model": name},
                )
            await make_resident(tx, previous)
            await tx.update(replace(entry.model, live=previous.number, previous=entry.model.live))
            await self._control.record("model.rolled_back", tenant.id, model=name, version=previous.number)
        return require_model(catalog, tenant, name)

    async def set_residency(self, tenant: Tenant, name: str, number: int, *, resident: bool) -> ModelEntry:
        """Makes a version (0: the live one) resident, which also gives a failed one another try, or releases it.

        Raises:
            NotFound: No such model or version.
            NotReady: No version is live.
        """
        catalog = self._control.catalog
        async with catalog.transaction() as tx:
            entry = require_model(catalog, require_standing(catalog, tenant), name)
            if number == 0 and entry.live is None:
                raise NotReady(
                    f"model {name!r} has no live version; name one, or promote one with "
                    f"`partywall models promote {name} VERSION`",
                    reason=Reason.WRONG_STATE,
                    fields={"field": "version", "model": name},
                )
            version = require_version(entry, number or entry.model.live)
            if resident:
                await make_resident(tx, version)
            else:
                await release(tx, version)
        return require_model(catalog, tenant, name)


async def make_resident(tx: CatalogTransaction, version: Version) -> Version:
    """Asks for a place for the version, unless that is under way."""
    if version.resident and version.state in _UNDER_WAY:
        return version
    return await tx.update(replace(version, resident=True, state=VersionState.PENDING, reason=""))


async def make_live(tx: CatalogTransaction, entry: ModelEntry, version: Version) -> None:
    """Makes `version` live; the one to go back to is the last live one that worked.

    Where the live version never became ready, the one before it may still be answering: it is kept as the previous
    one instead, and the failed attempt is released.
    """
    model, live, before = entry.model, entry.live, entry.versions.get(entry.model.previous)
    keep, drop = live, before
    stuck = live is not None and live.state is not VersionState.READY
    if stuck and before is not None and before.number != version.number and before.state is VersionState.READY:
        keep, drop = before, live
    await tx.update(replace(model, live=version.number, previous=keep.number if keep is not None else 0))
    if drop is not None and drop.number != version.number:
        await release(tx, drop)


async def release(tx: CatalogTransaction, version: Version) -> None:
    """Gives the version's place up; why one failed stays to be read."""
    if not version.resident:
        return
    failed = version.state is VersionState.FAILED
    state, reason = (version.state, version.reason) if failed else (VersionState.STORED, "")
    await tx.update(replace(version, resident=False, state=state, reason=reason))
