"""Brings the state of each version in line with what its replicas report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from partywall.domain.fleet import ReplicaState
from partywall.domain.models import Version, VersionState
from partywall.errors import Conflict
from router.control.scene import Scene, hopeless
from router.gateway.replicas import Replica


async def record_observed(scene: Scene, withheld: Mapping[str, str] = MappingProxyType({})) -> None:
    """`withheld`: why placements are not loaded at all, by placement."""
    by_version: dict[tuple[str, int], list[Replica]] = {}
    for replica in scene.membership.replica_runtimes():
        if replica.placement.parked:
            continue  # `parking` says how it stands with one that is wanted again
        key = (replica.placement.model_id, replica.placement.version)
        by_version.setdefault(key, []).append(replica)
    for entry in scene.catalog.models():
        for version in entry.versions.values():
            seen = observed(version, by_version.get((entry.model.id, version.number), []), withheld)
            if seen != version:
                async with scene.catalog.transaction() as tx:
                    await tx.update(seen)


async def release_previous(scene: Scene) -> None:
    """Once a promoted version is ready, the one before it is released; its sealed files stay."""
    for entry in scene.catalog.models():
        live, previous = entry.versions.get(entry.model.live), entry.versions.get(entry.model.previous)
        if live is None or previous is None or live.number == previous.number:
            continue
        if live.state is VersionState.READY and previous.resident:
            try:
                async with scene.catalog.transaction() as tx:
                    await tx.update(replace(previous, resident=False))
            except Conflict:
                continue


def observed(
    version: Version, replicas: Sequence[Replica], withheld: Mapping[str, str] = MappingProxyType({})
) -> Version:
    """The version as its replicas show it."""
    if not version.resident:
        return replace(version, state=VersionState.STORED, reason="") if not hopeless(version) else version
    statuses = [r.status for r in replicas if r.status is not None]
    ready = next((s for s in statuses if s.state is ReplicaState.READY), None)
    if ready is not None:
        return replace(
            version,
            state=VersionState.READY,
            reason="",
            signature=ready.signature or version.signature,
            memory_bytes=ready.memory_bytes or version.memory_bytes,
            load_seconds=ready.load_seconds or version.load_seconds,
        )
    if statuses and all(s.state is ReplicaState.FAILED and s.permanent for s in statuses):
        return replace(version, state=VersionState.FAILED, reason=statuses[0].reason)
    if replicas:
        said = (withheld.get(r.placement.id) or (r.status.reason if r.status is not None else "") for r in replicas)
        reason = next(filter(None, said), "")
        return replace(version, state=VersionState.LOADING, reason=reason)
    return version
