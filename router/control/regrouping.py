"""Regrouping at work: shows the policy what stands, and carries its moves out by replace, shift, drain."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection

import structlog

from partywall.errors import Conflict, NotReady
from router.control.manoeuvres import Manoeuvres
from router.control.residents import residents
from router.control.scene import Scene, new_id
from router.policy.regroup import Move, Plan, Regrouper, Why
from router.policy.regroup_words import Where

log = structlog.get_logger(__name__)

LOOK_S = 2.0
SPARING = 20.0
"""A long look is followed by this many times as long without one: a large fleet costs a twentieth of a core."""
PORTION = 25
"""Devices looked at in one go."""


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
        standing = [r async for r in residents(scene, scene.knowledge, self._manoeuvres, self._measuring)]
        plan = Plan(scene.nodes(), standing, scene.operator, new_id, scene.knowledge, self._regrouper.limits)
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

    def settle(self, now_s: float, devices: Collection[Where]) -> None:
        """Something else was changed on these devices: nothing is moved there for a while."""
        self._regrouper.settle(now_s, devices)

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


def inputs_of(move: Move) -> dict[str, str]:
    """What a move was decided by."""
    named = {
        "trigger": "at_risk" if move.why is Why.APART else "saving",
        "strain_then": f"{move.strain_then:.3f}",
        "held_s": f"{move.held_s:.0f}",
    }
    return {**named, "strain_now": f"{move.strain_now:.3f}"} if move.why is Why.APART else named
