"""Weights of released versions stay in their workers for a while, so that the versions come back without a load.

A *parked* placement serves nobody; its worker lives on with the decrypted weights in its own memory, which is where the
tenant let them be. It gives way to everything: to a budget per node (least recently parked goes first), to whoever
needs its memory, and to every trust rule. Tenants that share workers, and GPUs, do not park.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import structlog

from partywall.domain.fleet import DeviceKind, ReplicaState
from partywall.domain.models import VersionState
from partywall.domain.placements import Placement
from partywall.domain.tenants import TrustPolicy
from router.control.scene import Scene
from router.policy.placement import to_move

log = structlog.get_logger(__name__)


async def park(scene: Scene, swap_bytes: int) -> None:
    """One pass: parks what was released, wakes what is wanted again, drops what must give way."""
    for placement in list(scene.catalog.placements()):
        version = scene.version(placement)
        if version is None:
            continue  # `retire` drops it
        if placement.parked and version.resident:
            await _wake(scene, placement)
        elif not placement.parked and not version.resident and swap_bytes and _may_park(scene, placement):
            await _set_parked(scene, placement, "is released; its weights stay in its worker for a quick return")
    for placement, why in _giving_way(scene, swap_bytes):
        await _drop(scene, placement, why)


def _may_park(scene: Scene, placement: Placement) -> bool:
    """Whether a released placement may keep its weights: ready, whole, on a CPU, in a worker of its tenant alone."""
    tenant = scene.catalog.tenant(placement.tenant_id)
    runtime = scene.membership.replicas_by_id.get(placement.id)
    if tenant is None or tenant.quota.trust_policy is TrustPolicy.SHARED or placement.replaces:
        return False
    if scene.catalog.deletion(placement.tenant_id) is not None or runtime is None or not runtime.ready:
        return False
    devices = scene.membership.devices(placement.node)
    return any(d.id == placement.partition.device_id and d.kind is DeviceKind.CPU for d in devices)


async def _set_parked(scene: Scene, placement: Placement, what: str) -> None:
    entry, version = scene.catalog.model_by_id(placement.model_id), scene.version(placement)
    if entry is None or version is None:
        return
    scene.membership.generation += 1
    async with scene.catalog.transaction() as tx:
        await tx.update(replace(placement, parked=True, generation=scene.membership.generation))
        await tx.insert(scene.decision(entry, version, "swap", what))
    log.info("parked", placement=placement.id, model=entry.model.name, version=version.number)


async def _wake(scene: Scene, placement: Placement) -> None:
    entry, version = scene.catalog.model_by_id(placement.model_id), scene.version(placement)
    if entry is None or version is None:
        return
    scene.membership.generation += 1
    async with scene.catalog.transaction() as tx:
        await tx.update(replace(placement, parked=False, generation=scene.membership.generation))
        await tx.update(replace(version, state=VersionState.LOADING, reason=""))
        await tx.insert(
            scene.decision(entry, version, "swap", f"comes back on {placement.node} from its parked weights")
        )
    log.info("woken", placement=placement.id, model=entry.model.name, version=version.number)


def _giving_way(scene: Scene, swap_bytes: int) -> list[tuple[Placement, str]]:
    """Parked placements that have to go, each with the reason."""
    parked = sorted((p for p in scene.catalog.placements() if p.parked), key=lambda p: p.generation)
    standing = scene.standings()
    accepted = {p.id for p in to_move(standing, scene.operator.floor)}
    gone: dict[str, tuple[Placement, str]] = {}
    for one in parked:
        runtime = scene.membership.replicas_by_id.get(one.id)
        status = runtime.status if runtime is not None else None
        with_it = [*standing, *([s] if (s := scene.standing(one)) is not None else [])]
        if status is not None and status.state is ReplicaState.STOPPED and not status.memory_bytes:
            gone[one.id] = (one, "its worker ended, and the weights with it")
        elif scene.membership.session(one.node) is None and scene.membership.away_s(one.node) > 10.0:
            gone[one.id] = (one, "its node is away")
        elif {p.id for p in to_move(with_it, scene.operator.floor)} - accepted:
            gone[one.id] = (one, "a neighbour's trust policy bears no parked weights beside it")
    for node in {p.node for p in parked}:
        here = [p for p in parked if p.node == node and p.id not in gone]
        for one in _oldest_above(here, swap_bytes):
            gone[one.id] = (one, "the node's budget for parked weights is used up (--swap-bytes)")
        for device in scene.membership.devices(node):
            on = [p for p in here if p.partition.device_id == device.id and p.id not in gone]
            busy = sum(s.placement.memory_bytes for s in standing if _on(s.placement, node, device.id))
            for one in _oldest_above(on, device.memory_bytes - busy):
                gone[one.id] = (one, "its memory is needed")
    return list(gone.values())


def _oldest_above(parked: Iterable[Placement], limit_bytes: int) -> list[Placement]:
    """The least recently parked ones that do not fit into the limit, newest kept first."""
    out, held = [], 0
    for one in sorted(parked, key=lambda p: p.generation, reverse=True):
        if held + one.memory_bytes > limit_bytes:
            out.append(one)
        else:
            held += one.memory_bytes
    return out


def _on(placement: Placement, node: str, device_id: str) -> bool:
    return placement.node == node and placement.partition.device_id == device_id


async def _drop(scene: Scene, placement: Placement, why: str) -> None:
    entry, version = scene.catalog.model_by_id(placement.model_id), scene.version(placement)
    async with scene.catalog.transaction() as tx:
        await tx.delete(placement)
        if entry is not None and version is not None:
            await tx.insert(scene.decision(entry, version, "swap", f"parked weights are dropped: {why}"))
    log.info("parked weights dropped", placement=placement.id, reason=why)
