"""Desired against observed: places what is wanted, tells the agents, and writes down what they report.

Idempotent: each pass looks at everything and closes the gaps it finds, so a pass may fail and the next one goes on.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import replace

import structlog

from isolation.trust import Resident
from isolation.vault.keys import KeyProvider
from partywall.clock import Clock
from partywall.domain.fleet import Node, NodeState, ReplicaState
from partywall.domain.models import Version, VersionState
from partywall.domain.placements import Decision, Placement
from partywall.domain.tenants import Tenant
from partywall.errors import Conflict, PartywallError
from router.control.catalog import Catalog, ModelEntry
from router.control.desired import DesiredState
from router.control.membership import Membership
from router.gateway.replicas import Replica
from router.policy.placement import Chosen, NodeView, NoPlace, Operator, Standing, Want, place, to_move

log = structlog.get_logger(__name__)

RUNTIME_BYTES = 256 << 20
"""Host or device memory of a worker beside the weights, until it has been measured."""
MOVE_AFTER_S = 10.0
"""A node that has been away this long gives its placements up, if another node can take them."""


class Reconciler:
    """Runs in the leading router. `kick` asks for a pass; `run` makes passes until cancelled."""

    def __init__(
        self,
        catalog: Catalog,
        membership: Membership,
        keys: KeyProvider,
        clock: Clock,
        operator: Operator,
        *,
        period_s: float = 1.0,
        move_after_s: float = MOVE_AFTER_S,
    ) -> None:
        self._catalog = catalog
        self._membership = membership
        self._clock = clock
        self._operator = operator
        self._period_s = period_s
        self._move_after_s = move_after_s
        self._desired = DesiredState(catalog, membership, keys)
        self._kick = asyncio.Event()
        self._on_pass: list[Callable[[], None]] = []

    def kick(self) -> None:
        """Asks for a pass soon; cheap, may be called often."""
        self._kick.set()

    def on_pass(self, listener: Callable[[], None]) -> None:
        """Called after each pass."""
        self._on_pass.append(listener)

    async def run(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._period_s):
                    await self._kick.wait()
            except TimeoutError:
                pass
            self._kick.clear()
            try:
                await self.reconcile()
            except PartywallError as error:
                # The store is away or somebody else wrote first: serving goes on, the next pass tries again.
                log.warning("reconcile pass failed", reason=error.reason.value, error=error.message)
            for listener in self._on_pass:
                listener()

    async def reconcile(self) -> None:
        """One pass."""
        self._membership.set_placements(self._catalog.placements())
        await self._record_nodes()
        await self._retire()
        await self._place_missing()
        await self._record_observed()
        await self._release_previous()
        self._membership.set_placements(self._catalog.placements())
        self._desired.send()

    async def _record_nodes(self) -> None:
        """Writes down who is here, on transitions only: a node that is away is still the operator's to see."""
        here = {s.node: s for s in self._membership.sessions()}
        known = {node.name: node for node in self._catalog.nodes()}
        for name, session in here.items():
            node = known.get(name)
            seen = Node(
                name,
                NodeState.ONLINE,
                session.hello.incarnation,
                self._membership.devices(name),
                self._clock.now(),
                session.hello.version,
                node.rev if node else 0,
            )
            if node is None or replace(node, last_seen_at=seen.last_seen_at) != seen:
                async with self._catalog.transaction() as tx:
                    await (tx.insert(seen) if node is None else tx.update(seen))
        for name, node in known.items():
            if name not in here and node.state is NodeState.ONLINE:
                async with self._catalog.transaction() as tx:
                    await tx.update(replace(node, state=NodeState.OFFLINE, last_seen_at=self._clock.now()))

    async def _retire(self) -> None:
        """Drops placements that are not wanted, that stand against trust, or whose node stays away."""
        standing = [s for p in self._catalog.placements() if (s := self._standing(p)) is not None]
        untrusted = {p.id for p in to_move(standing, self._operator.floor)}
        for placement in self._catalog.placements():
            version = self._version(placement)
            lost = self._membership.away_s(placement.node) > self._move_after_s and self._others(placement.node)
            if version is None or not version.resident or lost or placement.id in untrusted:
                async with self._catalog.transaction() as tx:
                    await tx.delete(placement)
                log.info("placement dropped", placement=placement.id, lost=lost, untrusted=placement.id in untrusted)

    async def _place_missing(self) -> None:
        placed = {(p.model_id, p.version) for p in self._catalog.placements()}
        for entry in self._catalog.models():
            tenant = self._catalog.tenant(entry.model.tenant_id)
            for version in entry.versions.values():
                wanted = version.resident and (entry.model.id, version.number) not in placed
                if tenant is not None and wanted and not _hopeless(version):
                    await self._place(tenant, entry, version)

    async def _place(self, tenant: Tenant, entry: ModelEntry, version: Version) -> None:
        want = Want(
            resident=_resident(tenant),
            model_id=entry.model.id,
            version=version.number,
            memory_bytes=_memory_estimate(version),
            weights_bytes=version.plain_bytes,
            share_percent=version.manifest.share_percent,
            memory_quota_bytes=tenant.quota.device_memory_bytes,
        )
        nodes = [NodeView(s.node, self._membership.devices(s.node)) for s in self._membership.sessions()]
        standing = [s for p in self._catalog.placements() if (s := self._standing(p)) is not None]
        answer = place(want, nodes, standing, self._operator, _new_id)
        if isinstance(answer, NoPlace):
            await self._note_no_place(entry, version, answer)
        else:
            await self._write(entry, version, want, answer)

    async def _note_no_place(self, entry: ModelEntry, version: Version, answer: NoPlace) -> None:
        state = VersionState.FAILED if answer.permanent else VersionState.PENDING
        if version.state is state and version.reason == answer.reason:
            return
        async with self._catalog.transaction() as tx:
            await tx.update(replace(version, state=state, reason=answer.reason))
            await tx.insert(self._decision(entry, version, f"no place: {answer.reason}", answer))
        log.warning("no place", model=entry.model.name, version=version.number, reason=answer.reason)

    async def _write(self, entry: ModelEntry, version: Version, want: Want, chosen: Chosen) -> None:
        self._membership.generation += 1
        placement = Placement(
            id=_new_id("place"),
            tenant_id=entry.model.tenant_id,
            model_id=entry.model.id,
            version=version.number,
            node=chosen.node,
            partition=chosen.partition,
            worker_id=chosen.worker_id,
            memory_bytes=want.memory_bytes,
            generation=self._membership.generation,
            reason=chosen.reason,
        )
        summary = f"placed on {chosen.node} ({chosen.partition.kind.value}): {chosen.reason}"
        async with self._catalog.transaction() as tx:
            await tx.insert(placement)
            await tx.update(replace(version, state=VersionState.LOADING, reason=""))
            await tx.insert(self._decision(entry, version, summary, chosen))
        log.info("placed", model=entry.model.name, version=version.number, node=chosen.node, reason=chosen.reason)

    def _decision(self, entry: ModelEntry, version: Version, summary: str, answer: Chosen | NoPlace) -> Decision:
        return Decision(
            id=_new_id("decision"),
            kind="placement",
            subject=entry.model.id,
            summary=f"version {version.number} {summary}",
            at=self._clock.now(),
            alternatives=answer.alternatives,
            inputs={
                "memory_estimate_bytes": str(_memory_estimate(version)),
                "weights_bytes": str(version.plain_bytes),
                "share_percent": str(version.manifest.share_percent),
            },
        )

    async def _record_observed(self) -> None:
        """Brings the state of each version in line with what its replicas report."""
        by_version: dict[tuple[str, int], list[Replica]] = {}
        for replica in self._membership.replica_runtimes():
            key = (replica.placement.model_id, replica.placement.version)
            by_version.setdefault(key, []).append(replica)
        for entry in self._catalog.models():
            for version in entry.versions.values():
                seen = _observed(version, by_version.get((entry.model.id, version.number), []))
                if seen != version:
                    async with self._catalog.transaction() as tx:
                        await tx.update(seen)

    async def _release_previous(self) -> None:
        """Once a promoted version is ready, the one before it is released; its sealed files stay."""
        for entry in self._catalog.models():
            live, previous = entry.versions.get(entry.model.live), entry.versions.get(entry.model.previous)
            if live is None or previous is None or live.number == previous.number:
                continue
            if live.state is VersionState.READY and previous.resident:
                try:
                    async with self._catalog.transaction() as tx:
                        await tx.update(replace(previous, resident=False))
                except Conflict:
                    continue

    def _version(self, placement: Placement) -> Version | None:
        entry = self._catalog.model_by_id(placement.model_id)
        return entry.versions.get(placement.version) if entry else None

    def _others(self, node: str) -> bool:
        return any(s.node != node for s in self._membership.sessions())

    def _standing(self, placement: Placement) -> Standing | None:
        tenant = self._catalog.tenant(placement.tenant_id)
        if tenant is None:
            return None
        runtime = self._membership.replicas_by_id.get(placement.id)
        backlog_s = 0.0
        if runtime is not None:
            backlog_s = runtime.shared_backlog_s + runtime.service.mean_s(max(1, runtime.outstanding_rows))
        return Standing(placement, _resident(tenant), backlog_s)


def _observed(version: Version, replicas: list[Replica]) -> Version:
    """The version as its replicas show it."""
    if not version.resident:
        return replace(version, state=VersionState.STORED, reason="") if not _hopeless(version) else version
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
        reason = next((s.reason for s in statuses if s.reason), "")
        return replace(version, state=VersionState.LOADING, reason=reason)
    return version


def _hopeless(version: Version) -> bool:
    """Failed for good: another placement cannot help. A push of a corrected version can."""
    return version.state is VersionState.FAILED


def _memory_estimate(version: Version) -> int:
    declared = version.manifest.memory_bytes or version.memory_bytes
    return declared or int(version.plain_bytes * 1.2) + RUNTIME_BYTES


def _resident(tenant: Tenant) -> Resident:
    return Resident(tenant.id, tenant.quota.trust_policy, tenant.quota.trust_group)


def _new_id(prefix: str) -> str:
    return f"{prefix}-{secrets.token_hex(6)}"
