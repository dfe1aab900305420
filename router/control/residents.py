"""What stands, as the policies that move it and cut its share anew ask for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace

from partywall.domain.placements import Placement
from router.control.manoeuvres import Manoeuvres
from router.control.scene import Knowledge, Scene
from router.policy.regroup_words import Resident
from router.policy.retarget import Member

PORTION = 25
"""Placements looked at in one go."""


async def residents(
    scene: Scene, knowledge: Knowledge, manoeuvres: Manoeuvres, measuring: Callable[[str], bool]
) -> AsyncIterator[Resident]:
    """All that stand, parked ones apart: those give way."""
    moving = {name for p in manoeuvres.under_way() for name in (p.id, p.replaces)}
    several = _replicas(scene)
    for count, placement in enumerate(list(scene.catalog.placements())):
        if not count % PORTION:
            await asyncio.sleep(0)
        if placement.parked:
            continue
        fixed = placement.id in moving or measuring(placement.node)
        found = _resident(scene, knowledge, placement, several, fixed=fixed)
        if found is not None:
            yield found


def _resident(
    scene: Scene, knowledge: Knowledge, placement: Placement, several: Mapping[tuple[str, int], int], *, fixed: bool
) -> Resident | None:
    tenant, entry = scene.catalog.tenant(placement.tenant_id), scene.catalog.model_by_id(placement.model_id)
    version, standing = scene.version(placement), scene.standing(placement)
    if tenant is None or entry is None or version is None or standing is None:
        return None
    runtime = scene.membership.replicas_by_id.get(placement.id)
    serves = version.resident and runtime is not None and runtime.ready
    apart = several[placement.model_id, placement.version] > 1
    want = replace(scene.want(tenant, entry, version, placement), apart=apart)
    return Resident(
        Member(standing, want),
        knowledge.seen(placement.id, version.manifest.slo_ms),
        knowledge.observed(placement.id),
        fixed=fixed or not serves,
    )


def _replicas(scene: Scene) -> dict[tuple[str, int], int]:
    counts: dict[tuple[str, int], int] = {}
    for one in scene.catalog.placements():
        key = one.model_id, one.version
        counts[key] = counts.get(key, 0) + 1
    return counts
