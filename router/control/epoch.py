"""The leader's epoch."""

from __future__ import annotations

from router.control.catalog import Catalog
from router.control.records import MetaEntry

EPOCH_KEY = "epoch"


async def next_epoch(catalog: Catalog) -> int:
    """Each start of a leading router is a new epoch: commands of an older one are refused by the agents."""
    entry = catalog.meta(EPOCH_KEY)
    async with catalog.transaction() as tx:
        if entry is None:
            await tx.insert(MetaEntry(EPOCH_KEY, "1"))
            return 1
        epoch = int(entry.value) + 1
        await tx.update(MetaEntry(EPOCH_KEY, str(epoch), entry.rev))
        return epoch
