"""Replace, shift, drain: the one way in which a replica that serves goes somewhere else.

A placement with `replaces` stands beside the one it takes over from. It loads and is attested; then traffic moves to
it by weight; then the old one stands without traffic until it is idle; then it goes, and its agent drains it. All of it
is in the placements' rows, so a router that starts anew goes on where the last one was. A new replica that does not
come up is taken away again, and the old one never noticed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import structlog

from partywall.domain.fleet import ReplicaState
from partywall.domain.models import Version
from partywall.domain.placements import Alternative, Decision, Placement, ShareBy
from partywall.errors import Conflict, NotReady, Reason
from router.control.catalog import ModelEntry
from router.control.scene import Scene, memory_estimate, new_id
from router.gateway.replicas import Replica
from router.policy.placement import Chosen
from router.policy.shifting import Pace

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Patience:
    """Bounds, in seconds.

    Attributes:
        ready_s: Until the new replica is ready; a large model takes its time.
        failing_s: How long a new replica may go on failing before it is given up.
        idle_s: How long the old replica may stay busy without getting anything new; its agent drains it then.
    """

    ready_s: float = 600.0
    failing_s: float = 10.0
    idle_s: float = 60.0


@dataclass(slots=True)
class _Watch:
    """When this process first saw a manoeuvre, and when its weight last changed (monotonic seconds)."""

    since_s: float
    stepped_s: float


class Manoeuvres:
    """Starts them and moves them on. `advance` is a pass of the reconcile loop."""

    def __init__(self, scene: Scene, pace: Pace | None = None, patience: Patience | None = None) -> None:
        self._scene = scene
        self._pace = pace or Pace()
        self._patience = patience or Patience()
        self._watched: dict[str, _Watch] = {}

    def under_way(self) -> list[Placement]:
        """The placements that are taking over from others."""
        return [p for p in self._scene.catalog.placements() if p.replaces]

    async def start(
        self, placement: Placement, target: Chosen, why: str, inputs: Mapping[str, str] = MappingProxyType({})
    ) -> Decision:
        """Begins to replace a placement by one at `target`; answers the recorded decision with its `inputs`.

        Raises:
            NotReady: It is part of a manoeuvre already.
            Conflict: It is gone.
        """
        (decision,) = await self.start_together([(placement, target)], why, inputs=inputs)
        return decision

    async def start_together(
        self,
        moves: Sequence[tuple[Placement, Chosen]],
        why: str,
        alternatives: Sequence[Alternative] = (),
        inputs: Mapping[str, str] = MappingProxyType({}),
        share_by: ShareBy | None = None,
    ) -> list[Decision]:
        """As `start`, for all placements of a partition: all of them begin or none does. `share_by`: who chose the new
        size; None: the size is not new.

        Parked weights that would stay behind alone are released first: they are a cache, and would keep the partition
        and its memory; a model that comes back loads where the others then are.
        """
        scene = self._scene
        decisions = []
        async with scene.catalog.transaction() as tx:
            busy = {name for p in self.under_way() for name in (p.id, p.replaces)}
            for old, target in moves:
                entry, version = self._known(old)
                if old.id in busy:
                    raise NotReady(
                        f"placement {old.id} is being replaced already; wait until that is done",
                        reason=Reason.WRONG_STATE,
                        fields={"placement": old.id},
                        retry_after_s=5.0,
                    )
                new = self._successor(old, version, target, old.share_by if share_by is None else share_by)
                summary = f"moves from {_place(old)} to {_place(new)}: {why}; {target.reason}"
                shown = alternatives or target.alternatives
                decision = self._decide(entry, version, summary, old, new, shown, inputs)
                await tx.insert(new)
                await tx.insert(decision)
                decisions.append(decision)
            for kept in self.left_behind([old for old, _ in moves]):
                await tx.delete(kept)
                if (known := self._version(kept)) is not None:
                    summary = f"parked weights are released: their partition moves from {_place(kept)} ({why})"
                    await tx.insert(scene.decision(*known, "swap", summary))
        for decision in decisions:
            log.info("manoeuvre started", summary=decision.summary)
        return decisions

    def left_behind(self, placements: Sequence[Placement]) -> list[Placement]:
        """Parked placements of whose partitions nobody else would be left, were these gone."""
        going, places = {p.id for p in placements}, {_partition(p) for p in placements}
        everything = self._scene.catalog.placements()
        serving = {_partition(p) for p in everything if not p.parked and p.id not in going}
        return [p for p in everything if p.parked and _partition(p) in places - serving]

    async def advance(self) -> None:
        """Takes each manoeuvre one step further where it is due."""
        under_way = self.under_way()
        self._watched = {k: v for k, v in self._watched.items() if k in {p.id for p in under_way}}
        for new in under_way:
            now_s = self._scene.clock.monotonic()
            watch = self._watched.setdefault(new.id, _Watch(now_s, now_s))
            try:
                await self._step(new, watch, now_s)
            except Conflict:
                continue  # somebody else changed it: the next pass looks again

    async def _step(self, new: Placement, watch: _Watch, now_s: float) -> None:
        old = self._scene.catalog.placement(new.replaces)
        if old is None:
            await self._finish(new, None, "the one it replaces is gone")
            return
        runtimes = self._scene.membership.replicas_by_id
        replica, before = runtimes.get(new.id), runtimes.get(old.id)
        if replica is None or not replica.ready:
            why = self._hopeless(new, replica, now_s - watch.since_s)
            if why:
                await self._give_up(new, old, why)
            return
        if before is None or not before.ready:
            await self._finish(new, old, "the old replica does not serve")
            return
        held_s = now_s - watch.stepped_s
        if new.weight < 1.0:
            weight = self._pace.next_weight(new.weight, held_s)
            if weight != new.weight:
                async with self._scene.catalog.transaction() as tx:
                    await tx.update(replace(new, weight=weight))
                watch.stepped_s = now_s
                log.info("traffic shifts", placement=new.id, replaces=old.id, weight=weight)
            return
        idle = before.left_alone(watch.stepped_s, self._pace.settle_s)
        if idle or held_s >= self._patience.idle_s:
            await self._finish(new, old, "its traffic has moved and it is idle" if idle else "it stays busy")

    def _hopeless(self, new: Placement, replica: Replica | None, waited_s: float) -> str:
        """Why the new replica is not waited for any longer; empty: it is."""
        if self._scene.membership.session(new.node) is None:
            return f"node {new.node} is away" if waited_s >= self._patience.failing_s else ""
        status = replica.status if replica is not None else None
        failing = status is not None and bool(status.reason) and status.state is not ReplicaState.LOADING
        if status is not None and failing:
            final = status.state is ReplicaState.FAILED and status.permanent
            if final or waited_s >= self._patience.failing_s:
                return status.reason
        return f"not ready after {waited_s:.0f} s" if waited_s >= self._patience.ready_s else ""

    async def _give_up(self, new: Placement, old: Placement, why: str) -> None:
        entry, version = self._known(new)
        summary = f"stays on {_place(old)}: the replica on {_place(new)} did not come up ({why})"
        async with self._scene.catalog.transaction() as tx:
            await tx.delete(new)
            await tx.insert(self._decide(entry, version, summary, old, new))
        log.warning("manoeuvre given up", placement=new.id, replaces=old.id, reason=why)

    async def _finish(self, new: Placement, old: Placement | None, why: str) -> None:
        entry, version = self._known(new)
        async with self._scene.catalog.transaction() as tx:
            await tx.update(replace(new, replaces="", weight=1.0))
            if old is not None:
                await tx.delete(old)
                summary = f"has moved from {_place(old)} to {_place(new)}: {why}"
                await tx.insert(self._decide(entry, version, summary, old, new))
        log.info("manoeuvre finished", placement=new.id, replaced=new.replaces, reason=why)

    def _successor(self, old: Placement, version: Version, target: Chosen, share_by: ShareBy) -> Placement:
        membership = self._scene.membership
        membership.generation += 1
        return replace(
            old,
            id=new_id("place"),
            node=target.node,
            partition=target.partition,
            worker_id=target.worker_id,
            memory_bytes=memory_estimate(version),
            generation=membership.generation,
            reason=target.reason,
            replaces=old.id,
            weight=0.0,
            share_by=share_by,
            rev=0,
        )

    def _known(self, placement: Placement) -> tuple[ModelEntry, Version]:
        known = self._version(placement)
        if known is None or self._scene.catalog.placement(placement.id) is None:
            raise Conflict(f"placement {placement.id} is gone; look again", fields={"placement": placement.id})
        return known

    def _version(self, placement: Placement) -> tuple[ModelEntry, Version] | None:
        entry, version = self._scene.catalog.model_by_id(placement.model_id), self._scene.version(placement)
        return (entry, version) if entry is not None and version is not None else None

    def _decide(
        self,
        entry: ModelEntry,
        version: Version,
        summary: str,
        old: Placement,
        new: Placement,
        alternatives: Sequence[Alternative] = (),
        inputs: Mapping[str, str] = MappingProxyType({}),
    ) -> Decision:
        named = {"old_placement": old.id, "new_placement": new.id, **inputs}
        return self._scene.decision(entry, version, "manoeuvre", summary, tuple(alternatives), named)


def _partition(placement: Placement) -> tuple[str, str]:
    return placement.node, placement.partition.id


def _place(placement: Placement) -> str:
    partition = placement.partition
    cores = f" cores {','.join(map(str, partition.cores))}" if partition.cores else f" {partition.share_percent} %"
    return f"{placement.node}/{partition.device_id} {partition.kind.value}{cores}"
