"""Finds a place for every wanted version that has none, and writes down why it is that one."""

from __future__ import annotations

from dataclasses import replace

import structlog

from partywall.domain.models import Version, VersionState
from partywall.domain.placements import Placement, ShareBy
from router.control.catalog import ModelEntry
from router.control.scene import Scene, hopeless, new_id
from router.policy.placement import Chosen, NoPlace, Want

log = structlog.get_logger(__name__)


async def place_missing(scene: Scene) -> None:
    placed = {(p.model_id, p.version) for p in scene.catalog.placements()}
    for entry in scene.catalog.models():
        tenant = scene.catalog.tenant(entry.model.tenant_id)
        for version in entry.versions.values():
            wanted = version.resident and (entry.model.id, version.number) not in placed
            if tenant is not None and wanted and not hopeless(version):
                await _place(scene, entry, version, scene.want(tenant, entry, version))


def placement_of(
    scene: Scene, entry: ModelEntry, want: Want, chosen: Chosen, share_by: ShareBy = ShareBy.DEFAULT
) -> Placement:
    """A new placement where the policy chose, of the next generation."""
    scene.membership.generation += 1
    return Placement(
        id=new_id("place"),
        tenant_id=entry.model.tenant_id,
        model_id=entry.model.id,
        version=want.version,
        node=chosen.node,
        partition=chosen.partition,
        worker_id=chosen.worker_id,
        memory_bytes=want.memory_bytes,
        generation=scene.membership.generation,
        reason=chosen.reason,
        share_by=share_by,
    )


async def _place(scene: Scene, entry: ModelEntry, version: Version, want: Want) -> None:
    answer = scene.place(want)
    if isinstance(answer, NoPlace):
        await _note_no_place(scene, entry, version, answer)
        return
    placement = placement_of(scene, entry, want, answer)
    summary = f"placed on {answer.node} ({answer.partition.kind.value}): {answer.reason}"
    async with scene.catalog.transaction() as tx:
        await tx.insert(placement)
        await tx.update(replace(version, state=VersionState.LOADING, reason=""))
        await tx.insert(scene.decision(entry, version, "placement", summary, answer.alternatives))
    log.info("placed", model=entry.model.name, version=version.number, node=answer.node, reason=answer.reason)


async def _note_no_place(scene: Scene, entry: ModelEntry, version: Version, answer: NoPlace) -> None:
    state = VersionState.FAILED if answer.permanent else VersionState.PENDING
    if version.state is state and version.reason == answer.reason:
        return
    summary = f"no place: {answer.reason}"
    async with scene.catalog.transaction() as tx:
        await tx.update(replace(version, state=state, reason=answer.reason))
        await tx.insert(scene.decision(entry, version, "placement", summary, answer.alternatives))
    log.warning("no place", model=entry.model.name, version=version.number, reason=answer.reason)
