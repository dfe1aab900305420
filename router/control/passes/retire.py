"""Drops placements that are not wanted or whose node stays away; moves those that stand against trust."""

from __future__ import annotations

from partywall.domain.placements import Placement
from partywall.errors import Conflict, NotReady
from router.control.manoeuvres import Manoeuvres
from router.control.passes.dropping import drop
from router.control.scene import Scene
from router.policy.placement import Chosen, NoPlace, to_move

MOVE_AFTER_S = 10.0
"""A node that has been away this long gives its placements up, if another node can take them."""


async def retire(scene: Scene, manoeuvres: Manoeuvres, move_after_s: float) -> None:
    membership = scene.membership
    for placement in scene.catalog.placements():
        version = scene.version(placement)
        others = any(s.node != placement.node for s in membership.sessions())
        lost = membership.away_s(placement.node) > move_after_s and others
        if version is not None and placement.parked:
            continue  # `parking` cares for it
        if version is None or not version.resident or lost:
            await _drop(scene, placement, "its node stays away" if lost else "nobody wants it")
    await _separate(scene, manoeuvres)
    await _evacuate(scene, manoeuvres)


async def _evacuate(scene: Scene, manoeuvres: Manoeuvres) -> None:
    """Moves what stands on a device that a fault has fenced, where there is another place."""
    fenced = {(n.name, d.id): d.fenced for n in scene.nodes() for d in n.devices if d.fenced}
    under_way = manoeuvres.under_way()
    busy = {p.id for p in under_way} | {p.replaces for p in under_way}
    for placement in scene.catalog.placements():
        why = fenced.get((placement.node, placement.partition.device_id))
        if why is None or placement.id in busy or placement.parked:
            continue
        answer = _elsewhere(scene, placement)
        if isinstance(answer, Chosen):
            try:
                await manoeuvres.start(placement, answer, f"its device is fenced ({why})")
            except (Conflict, NotReady):
                continue


def _elsewhere(scene: Scene, placement: Placement) -> Chosen | NoPlace:
    tenant, entry = scene.catalog.tenant(placement.tenant_id), scene.catalog.model_by_id(placement.model_id)
    version = scene.version(placement)
    if tenant is None or entry is None or version is None:
        return NoPlace("its owner is on the way out", False, ())
    return scene.place(scene.want(tenant, entry, version, placement), leaving={placement.id})


async def _separate(scene: Scene, manoeuvres: Manoeuvres) -> None:
    """Moves what may no longer stand where it is. Without another place it goes at once: trust before service."""
    leaving = {p.replaces for p in manoeuvres.under_way()}
    for placement in to_move(scene.standings(), scene.operator.floor):
        if placement.id in leaving:
            continue  # on its way
        if placement.replaces or placement.parked:
            await _drop(scene, placement, "it stands against trust")
            continue
        answer = _elsewhere(scene, placement)
        if isinstance(answer, NoPlace):
            await _drop(scene, placement, f"it stands against trust, and {answer.reason}")
            continue
        try:
            await manoeuvres.start(placement, answer, "trust: it may no longer stand beside its neighbours")
        except Conflict:
            continue


async def _drop(scene: Scene, placement: Placement, why: str) -> None:
    await drop(scene, placement, "placement", f"leaves {placement.node}: {why}")
