"""Regrouping at work: shows the policy what stands, and carries its moves out by replace, shift, drain."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace

import structlog

from partywall.domain.placements import Placement
from partywall.errors import Conflict, NotReady
from router.control.manoeuvres import Manoeuvres
from router.control.scene import Knowledge, Scene, new_id
from router.policy.regroup import Move, Plan, Regrouper, Resident, Why
from router.policy.retarget import Member

log = structlog.get_logger(__name__)

LOOK_S = 2.0
SPARING = 20.0
"""A long look is followed by this many times as long without one: a large fleet costs a twentieth of a core."""
PORTION = 25
"""Devices or placements looked at in one go."""


class Regrouping:
    """Runs within the live planner, in the leading router. `wishes` are the moves that the last look found."""

    def __init__(
        self,
        scene: Scene,
        manoeuvres: Manoeuvres,
        regrouper: Regrouper,
        *,
        apply: bool = True,
        measuring: Callable[[str], bool] = lambda node: False,
    ) -> None:
        """`measuring`: whether a profile is taken on a node now; nothing is moved there meanwhile."""
        self._scene = scene
        self._manoeuvres = manoeuvres
        self._regrouper = regrouper
        self._measuring = measuring
        self._next_s = float("-inf")
        self._said: set[str] = set()
        self.enabled = apply
        self.wishes: list[Move] = []

    async def look(self, now_s: float) -> bool:
        """One look, at most every two seconds; whether a move has begun. `now_s` is the scene's monotonic clock's."""
        scene = self._scene
        if scene.knowledge is None or now_s < self._next_s:
            return False
        self._next_s = now_s + LOOK_S
        if not scene.knowledge.informed():
            self.wishes = []
            return False
        residents = [r async for r in self._residents(scene.knowledge)]
        plan = Plan(scene.nodes(), residents, scene.operator, new_id, scene.knowledge, self._regrouper.limits)
        for count, _ in enumerate(plan.risks()):
            if not count % PORTION:
                await asyncio.sleep(0)  # requests go first
        self.wishes = self._regrouper.look(now_s, plan)
        self._next_s = now_s + max(LOOK_S, SPARING * (scene.clock.monotonic() - now_s))
        await self._say_stuck()
        due = [m for m in self.wishes if m.due and m.target is not None]
        if not self.enabled or not due:
            return False
        begun = [move for move in due if await self._begin(move)]
        self._regrouper.moved(now_s, begun)
        return bool(begun)

    async def _begin(self, move: Move) -> bool:
        if move.target is None:
            return False
        try:
            await self._manoeuvres.start(move.placement, move.target, move.reason, inputs_of(move))
        except (Conflict, NotReady):
            return False  # it is on its way already, or gone: the next look sees
        return True

    async def _say_stuck(self) -> None:
        """That nothing helps is said once for as long as it lasts."""
        stuck = {m.placement.id: m for m in self.wishes if m.due and m.target is None}
        for name in stuck.keys() - self._said:
            await self._record(stuck[name])
        self._said = set(stuck)

    async def _record(self, move: Move) -> None:
        scene, placement = self._scene, move.placement
        entry, version = scene.catalog.model_by_id(placement.model_id), scene.version(placement)
        if entry is None or version is None or not self.enabled:
            return
        async with scene.catalog.transaction() as tx:
            summary = f"stays on {placement.node}: {move.reason}"
            await tx.insert(scene.decision(entry, version, "regroup", summary, inputs=inputs_of(move)))
        log.warning("no better place", model=entry.model.name, strain=round(move.strain_now, 2))

    async def _residents(self, knowledge: Knowledge) -> AsyncIterator[Resident]:
        """All that stand, parked ones apart: those give way."""
        moving = {name for p in self._manoeuvres.under_way() for name in (p.id, p.replaces)}
        several = self._replicas()
        for count, placement in enumerate(list(self._scene.catalog.placements())):
            if not count % PORTION:
                await asyncio.sleep(0)
            found = self._resident(placement, knowledge, several, moving) if not placement.parked else None
            if found is not None:
                yield found

    def _resident(
        self, placement: Placement, knowledge: Knowledge, several: Mapping[tuple[str, int], int], moving: set[str]
    ) -> Resident | None:
        scene = self._scene
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
            fixed=placement.id in moving or not serves or self._measuring(placement.node),
        )

    def _replicas(self) -> dict[tuple[str, int], int]:
        counts: dict[tuple[str, int], int] = {}
        for one in self._scene.catalog.placements():
            key = one.model_id, one.version
            counts[key] = counts.get(key, 0) + 1
        return counts


def inputs_of(move: Move) -> dict[str, str]:
    """What a move was decided by."""
    named = {
        "trigger": "at_risk" if move.why is Why.APART else "saving",
        "strain_then": f"{move.strain_then:.3f}",
        "held_s": f"{move.held_s:.0f}",
    }
    return {**named, "strain_now": f"{move.strain_now:.3f}"} if move.why is Why.APART else named
