"""Drops placements that are not wanted, that stand against trust, or whose node stays away."""

from __future__ import annotations

import structlog

from router.control.scene import Scene
from router.policy.placement import to_move

log = structlog.get_logger(__name__)

MOVE_AFTER_S = 10.0
"""A node that has been away this long gives its placements up, if another node can take them."""


async def retire(scene: Scene, move_after_s: float) -> None:
    membership = scene.membership
    untrusted = {p.id for p in to_move(scene.standings(), scene.operator.floor)}
    for placement in scene.catalog.placements():
        version = scene.version(placement)
        others = any(s.node != placement.node for s in membership.sessions())
        lost = membership.away_s(placement.node) > move_after_s and others
        if version is None or not version.resident or lost or placement.id in untrusted:
            async with scene.catalog.transaction() as tx:
                await tx.delete(placement)
            log.info("placement dropped", placement=placement.id, lost=lost, untrusted=placement.id in untrusted)
