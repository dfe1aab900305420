"""How a placement ends: its row and the decision that says why, in one transaction."""

from __future__ import annotations

import structlog

from partywall.domain.placements import Placement
from router.control.scene import Scene

log = structlog.get_logger(__name__)


async def drop(scene: Scene, placement: Placement, kind: str, summary: str) -> None:
    """Deletes a placement. `kind` and `summary` are the decision's; a version that is gone gets none."""
    entry, version = scene.catalog.model_by_id(placement.model_id), scene.version(placement)
    async with scene.catalog.transaction() as tx:
        await tx.delete(placement)
        if entry is not None and version is not None:
            await tx.insert(scene.decision(entry, version, kind, summary))
    log.info("placement dropped", placement=placement.id, reason=summary)
