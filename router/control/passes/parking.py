"""Weights of released versions stay in their workers for a while, so that the versions come back without a load.

A *parked* placement serves nobody; its worker lives on with the decrypted weights in host memory of its own process,
which is where the tenant let them be. It gives way to everything: to a budget per node (least recently parked goes
first), to whoever needs its memory, and to every trust rule. One that is wanted again while others have its device
is placed elsewhere where that is possible, and waits where it is not. Tenants that share workers do not park.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import structlog

from partywall.domain.fleet import Device, DeviceKind, ReplicaState
from partywall.domain.models import VersionState
from partywall.domain.placements import Placement
from partywall.domain.tenants import TrustPolicy
from router.control.passes.dropping import drop
from router.control.passes.parked_room import crowded_out, held_bytes, no_room_to_wake
from router.control.scene import Scene
from router.policy.placement import NoPlace, Standing, by_device, to_move

log = structlog.get_logger(__name__)


async def park(scene: Scene, swap_bytes: int) -> None:
    """One pass: parks what was released, wakes what is wanted again, drops what must give way."""
    for placement in list(scene.catalog.placements()):
        version = scene.version(placement)
        if version is None:
            continue  # `retire` drops it
        if placement.parked and version.resident:
            await _wake_or_wait(scene, placement)
        elif not placement.parked and not version.resident and swap_bytes and _may_park(scene, placement):
            await _set_parked(scene, placement, "is released; its weights stay in its worker for a quick return")
    await give_way(scene, swap_bytes)


async def give_way(scene: Scene, swap_bytes: int) -> None:
    """Drops the parked weights that stand in somebody's way."""
    for placement, why in _giving_way(scene, swap_bytes):
        await _drop(scene, placement, why)


def _may_park(scene: Scene, placement: Placement) -> bool:
    """Whether a released placement may keep its weights: ready, whole, on a sound device, in a worker of its tenant
    alone."""
    tenant = scene.catalog.tenant(placement.tenant_id)
    runtime = scene.membership.replicas_by_id.get(placement.id)
    if tenant is None or tenant.quota.trust_policy is TrustPolicy.SHARED or placement.replaces:
        return False
    if scene.catalog.deletion(placement.tenant_id) is not None or runtime is None or not runtime.ready:
        return False
    device = scene.device(placement)
    return device is not None and not device.fenced


async def _set_parked(scene: Scene, placement: Placement, what: str) -> None:
    entry, version = scene.catalog.model_by_id(placement.model_id), scene.version(placement)
    if entry is None or version is None:
        return
    scene.membership.generation += 1
    async with scene.catalog.transaction() as tx:
        await tx.update(replace(placement, parked=True, generation=scene.membership.generation))
        await tx.insert(scene.decision(entry, version, "swap", what))
    log.info("parked", placement=placement.id, model=entry.model.name, version=version.number)


async def _wake_or_wait(scene: Scene, placement: Placement) -> None:
    """Wakes a placement where its device has the room; gives it up for another place, or waits for the room."""
    tenant, entry = scene.catalog.tenant(placement.tenant_id), scene.catalog.model_by_id(placement.model_id)
    version = scene.version(placement)
    if tenant is None or entry is None or version is None:
        return
    taken = no_room_to_wake(scene, placement)
    if not taken:
        await _wake(scene, placement)
        return
    if not isinstance(scene.place(scene.want(tenant, entry, version, placement)), NoPlace):
        await _drop(scene, placement, f"{taken}; it is loaded where there is a place")
        return
    reason = f"its weights wait in host memory: {taken}"
    if (version.state, version.reason) == (VersionState.PENDING, reason):
        return
    async with scene.catalog.transaction() as tx:
        await tx.update(replace(version, state=VersionState.PENDING, reason=reason))
        await tx.insert(scene.decision(entry, version, "swap", f"cannot come back yet: {taken}"))
    log.warning("parked weights wait", placement=placement.id, model=entry.model.name, reason=taken)


async def _wake(scene: Scene, placement: Placement) -> None:
    entry, version = scene.catalog.model_by_id(placement.model_id), scene.version(placement)
    if entry is None or version is None:
        return
    scene.membership.generation += 1
    summary = f"comes back on {placement.node} from its parked weights"
    async with scene.catalog.transaction() as tx:
        await tx.update(replace(placement, parked=False, generation=scene.membership.generation))
        await tx.update(replace(version, state=VersionState.LOADING, reason=""))
        await tx.insert(scene.decision(entry, version, "swap", summary, inputs=_expected(scene, placement)))
    log.info("woken", placement=placement.id, model=entry.model.name, version=version.number)


def _expected(scene: Scene, placement: Placement) -> Mapping[str, str]:
    """What the way back is expected to take, where weights have to be copied onto a device."""
    runtime = scene.membership.replicas_by_id.get(placement.id)
    status = runtime.status if runtime is not None else None
    if status is None or not status.wake_bytes or not status.wake_seconds:
        return MappingProxyType({})
    rate = status.wake_bytes / status.wake_seconds
    return {"wake_seconds": f"{status.wake_seconds:.3f}", "wake_bytes_per_s": f"{rate:.0f}"}


def _giving_way(scene: Scene, swap_bytes: int) -> list[tuple[Placement, str]]:
    """Parked placements that have to go, each with the reason."""
    parked = sorted((p for p in scene.catalog.placements() if p.parked), key=lambda p: p.generation)
    if not parked:
        return []
    standing = scene.standings()
    accepted = {p.id for p in to_move(standing, scene.operator.floor)}
    gone: dict[str, tuple[Placement, str]] = {}
    for one in parked:
        runtime = scene.membership.replicas_by_id.get(one.id)
        status = runtime.status if runtime is not None else None
        own = scene.standing(one) if scene.off_device(one) else None
        with_it = [*standing, *([own] if own is not None else [])]
        if status is not None and status.state is ReplicaState.STOPPED and not status.memory_bytes:
            gone[one.id] = (one, status.reason or "its worker ended, and the weights with it")
        elif scene.membership.session(one.node) is None and scene.membership.away_s(one.node) > 10.0:
            gone[one.id] = (one, "its node is away")
        elif {p.id for p in to_move(with_it, scene.operator.floor)} - accepted:
            gone[one.id] = (one, "a neighbour's trust policy bears no parked weights beside it")
    there = by_device(standing)
    for node in {p.node for p in parked}:
        _room_on(scene, node, [p for p in parked if p.node == node and p.id not in gone], swap_bytes, there, gone)
    return list(gone.values())


def _room_on(
    scene: Scene,
    node: str,
    parked: list[Placement],
    swap_bytes: int,
    there: Mapping[tuple[str, str], Sequence[Standing]],
    gone: dict[str, tuple[Placement, str]],
) -> None:
    """Adds to `gone` those for whom a node has no room: by the budget, and by what others, who are `there`, need of its
    devices."""

    def held(one: Placement) -> int:
        return held_bytes(scene, one)

    for one in _oldest_above(parked, swap_bytes, held):
        gone[one.id] = (one, "the node's budget for parked weights is used up (--swap-bytes)")
    devices = {d.id: d for d in scene.membership.devices(node)}
    on_gpus = {p.id for p in parked if p.partition.device_id in devices and _is_gpu(devices[p.partition.device_id])}
    for device in devices.values():
        others = there.get((node, device.id), ())
        if _is_gpu(device):
            on = [p for p in parked if p.partition.device_id == device.id and p.id not in gone]
            for one in crowded_out(scene, device, others, on):
                gone[one.id] = (one, "its part of the device is needed")
            continue
        # Weights that left a GPU lie in the same host memory as those that never were on one.
        on = [p for p in parked if p.id not in gone and (p.partition.device_id == device.id or p.id in on_gpus)]
        busy = sum(s.placement.memory_bytes for s in others)
        for one in _oldest_above(on, device.memory_bytes - busy, held):
            gone[one.id] = (one, "its memory is needed")


def _oldest_above(parked: Iterable[Placement], limit_bytes: int, held: Callable[[Placement], int]) -> list[Placement]:
    """The least recently parked ones that do not fit into the limit, newest kept first."""
    out, sum_bytes = [], 0
    for one in sorted(parked, key=lambda p: p.generation, reverse=True):
        if sum_bytes + held(one) > limit_bytes:
            out.append(one)
        else:
            sum_bytes += held(one)
    return out


def _is_gpu(device: Device) -> bool:
    return device.kind is DeviceKind.GPU


async def _drop(scene: Scene, placement: Placement, why: str) -> None:
    await drop(scene, placement, "swap", f"parked weights are dropped: {why}")
