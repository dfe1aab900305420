"""Adds and takes away replicas of live versions until there are as many as the model asks for, one at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import structlog

from partywall.domain.models import Version
from partywall.domain.placements import Placement, ShareBy
from router.control.catalog import ModelEntry
from router.control.passes.placing import placement_of
from router.control.scene import Scene, hopeless, want_of
from router.policy.placement import Chosen, NoPlace

log = structlog.get_logger(__name__)


async def match_replicas(scene: Scene) -> None:
    """The first replica is `place_missing`'s; this one cares for the others."""
    by_model: dict[tuple[str, int], list[Placement]] = {}
    for placement in scene.catalog.placements():
        by_model.setdefault((placement.model_id, placement.version), []).append(placement)
    for entry in scene.catalog.models():
        version = entry.live
        standing = by_model.get((entry.model.id, entry.model.live), [])
        if version is None or not version.resident or hopeless(version) or not standing:
            continue
        if any(p.replaces for p in standing):
            continue  # a manoeuvre counts twice while it lasts
        if len(standing) < entry.model.replicas and _ready(scene, standing):
            await _add(scene, entry, version)
        elif len(standing) > max(1, entry.model.replicas):
            await _remove(scene, entry, version, standing)


def find_place(scene: Scene, entry: ModelEntry, version: Version) -> Chosen | NoPlace:
    """Where one more replica would go: on ground of its own, leaving room for the next tenant."""
    tenant = scene.catalog.tenant(entry.model.tenant_id)
    if tenant is None:
        return NoPlace("its tenant is gone", False, ())
    want = replace(scene.want(tenant, entry, version), apart=True)
    like = _like(scene, entry, version)
    if like is not None:
        found = scene.place(replace(want, share_percent=like.partition.share_percent))
        if not isinstance(found, NoPlace):
            return found
    # A smaller one is better than none, and may grow.
    return scene.place(want)


def _like(scene: Scene, entry: ModelEntry, version: Version) -> Placement | None:
    """A replica that stands: one more gets the share that was chosen for it."""
    mine = (p for p in scene.catalog.placements() if (p.model_id, p.version) == (entry.model.id, version.number))
    return next((p for p in mine if p.share_by is not ShareBy.DEFAULT), None)


async def _add(scene: Scene, entry: ModelEntry, version: Version) -> None:
    tenant = scene.catalog.tenant(entry.model.tenant_id)
    answer = find_place(scene, entry, version)
    if tenant is None or isinstance(answer, NoPlace):
        return  # the planner says so; the next pass looks again
    like = _like(scene, entry, version)
    same = like is not None and like.partition.share_percent == answer.partition.share_percent
    share_by = like.share_by if like is not None and same else ShareBy.DEFAULT
    placement = placement_of(scene, entry, want_of(tenant, entry, version), answer, share_by)
    summary = f"gets one more replica on {answer.node} ({answer.partition.kind.value}): {answer.reason}"
    async with scene.catalog.transaction() as tx:
        await tx.insert(placement)
        await tx.insert(scene.decision(entry, version, "placement", summary, answer.alternatives))
    log.info("replica added", model=entry.model.name, version=version.number, node=answer.node, reason=answer.reason)


async def _remove(scene: Scene, entry: ModelEntry, version: Version, standing: Sequence[Placement]) -> None:
    """One replica goes: one that does not serve, else the least busy, else the youngest. One that serves stays."""
    runtimes = scene.membership.replicas_by_id
    ready = {p.id for p in _ready(scene, standing)}

    def order(placement: Placement) -> tuple[bool, int, int]:
        runtime = runtimes.get(placement.id)
        return placement.id in ready, runtime.in_flight if runtime else 0, -placement.generation

    gone = min(standing, key=order)
    if not ready - {gone.id}:
        return
    summary = f"gives up its replica on {gone.node}: {entry.model.replicas} are enough"
    async with scene.catalog.transaction() as tx:
        await tx.delete(gone)
        await tx.insert(scene.decision(entry, version, "placement", summary))
    log.info("replica taken away", model=entry.model.name, version=version.number, node=gone.node)


def _ready(scene: Scene, standing: Sequence[Placement]) -> list[Placement]:
    runtimes = scene.membership.replicas_by_id
    return [p for p in standing if (r := runtimes.get(p.id)) is not None and r.ready]
