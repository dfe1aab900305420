"""Shares cut anew at work: shows the policy what stands and how it is loaded, and carries out what is due."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import structlog

from partywall.domain.placements import Alternative, Placement, ShareBy
from partywall.errors import Conflict, NotReady
from router.control.holdings import Curves, Holdings, waiting
from router.control.manoeuvres import Manoeuvres
from router.control.passes.replicas import find_place
from router.control.plan_steps import Step
from router.control.residents import residents
from router.control.scene import Knowledge, Scene, new_id
from router.policy.choosing import nameless
from router.policy.regroup_words import RegroupLimits, Where
from router.policy.reshare import Recut, Resharer, SharePlan, Which
from router.policy.retarget import Target
from router.policy.wants import NoPlace

log = structlog.get_logger(__name__)

LOOK_S = 5.0
SPARING = 20.0
"""A long look is followed by this many times as long without one: a large fleet costs a twentieth of a core."""
PORTION = 25
"""Shares reckoned in one go."""


@dataclass(frozen=True, slots=True)
class Looked:
    """What a look came to: the models whose replicas are to be left alone, and the devices where something began."""

    held: frozenset[str] = frozenset()
    begun: frozenset[Where] = frozenset()


class Resharing:
    """Runs within the live planner, in the leading router. `wishes` are what the last look found."""

    def __init__(
        self,
        scene: Scene,
        manoeuvres: Manoeuvres,
        resharer: Resharer,
        curves: Curves,
        *,
        apply: bool = True,
        grouping: RegroupLimits | None = None,
        most: int = 1,
        measuring: Callable[[str], bool] = lambda node: False,
    ) -> None:
        """Args:
        scene: Catalog and fleet.
        manoeuvres: Carries changes out.
        resharer: Decides them.
        curves: Profiles' times alone.
        apply: False: it only shows what it would do.
        grouping: How residents are moved together; None: not at all.
        most: Replicas that a model may have.
        measuring: Whether a profile is taken on a node now; nothing is changed there meanwhile.
        """
        self._scene = scene
        self._manoeuvres = manoeuvres
        self._resharer = resharer
        self._holdings = Holdings(scene, curves)
        self._grouping = grouping
        self._measuring = measuring
        self._most = most
        self._next_s = self._rested_s = float("-inf")
        self._said: set[str] = set()
        self.enabled = apply
        self.wishes: list[Recut] = []

    async def look(self, now_s: float, steps: Sequence[Step], at_risk: Callable[[str], bool]) -> Looked:
        """One look, at most every five seconds but at once where an objective is at risk.

        Args:
            now_s: The scene's monotonic time.
            steps: What the scaler makes of every planned model.
            at_risk: Whether a model, by its id, misses its objective faster than allowed.
        """
        scene = self._scene
        self._resharer.changed(now_s, self._moving())
        begun: frozenset[Where] = frozenset()
        pressing = any(at_risk(s.entry.model.id) for s in steps)
        if scene.knowledge is not None and now_s >= (self._rested_s if pressing else self._next_s):
            await self._plan(now_s, steps, at_risk, scene.knowledge)
            begun = await self._act(now_s) if self.enabled else begun
        return Looked(self._held(), begun)

    async def _plan(
        self, now_s: float, steps: Sequence[Step], at_risk: Callable[[str], bool], knowledge: Knowledge
    ) -> None:
        scene = self._scene
        standing = [r async for r in residents(scene, knowledge, self._manoeuvres, self._measuring)]
        by_model = {s.entry.model.id: s for s in steps}
        holdings = self._holdings.of(standing, by_model, at_risk)
        plan = SharePlan(
            scene.nodes(), holdings, scene.standings(), scene.operator, new_id, knowledge, self._resharer.limits,
            waiting(scene, steps), self._grouping,
        )  # fmt: skip
        for count, _ in enumerate(plan.reckoned()):
            if not count % PORTION:
                await asyncio.sleep(0)  # requests go first
        self.wishes = self._resharer.look(now_s, plan, lambda name: self._by_replicas(by_model.get(name)))
        self._rested_s = now_s + SPARING * (scene.clock.monotonic() - now_s)
        self._next_s = max(now_s + LOOK_S, self._rested_s)
        await self._say_stuck(by_model)

    def _moving(self) -> set[Where]:
        """Devices where a manoeuvre is under way: one at a time."""
        catalog, out = self._scene.catalog, set()
        for new in self._manoeuvres.under_way():
            out.add(_where(new))
            if (old := catalog.placement(new.replaces)) is not None:
                out.add(_where(old))
        return out

    def _held(self) -> frozenset[str]:
        """Models whose share changes now, or will grow soon: no replica is added or taken away for them meanwhile."""
        moving = {p.model_id for p in self._manoeuvres.under_way()}
        if not self.enabled:
            return frozenset(moving)
        soon = {name for w in self.wishes if w.which is Which.GROW and w.target is not None for name in w.models}
        return frozenset(moving | soon)

    def _by_replicas(self, step: Step | None) -> int | None:
        """Percent of a device that as many replicas as are needed would take on top; None: they are not to be had."""
        if step is None or not step.now < step.verdict.need <= self._most:
            return None
        found = find_place(self._scene, step.entry, step.version)
        if isinstance(found, NoPlace):
            return None
        return (step.verdict.need - step.now) * found.partition.share_percent

    async def _act(self, now_s: float) -> frozenset[Where]:
        """Begins what is due; the rest stays a wish until the next look."""
        begun: set[Where] = set()
        for wish in self.wishes:
            if wish.due and wish.target is not None and await self._begin(wish, wish.target):
                begun.add(wish.cut.where)
        if begun:
            self.wishes = [w for w in self.wishes if w.cut.where not in begun]
            self._resharer.changed(now_s, begun)
        return frozenset(begun)

    async def _begin(self, wish: Recut, target: Target) -> bool:
        placements = [h.resident.placement for h in wish.cut.holdings]
        moves = list(zip(placements, target.chosen, strict=True))
        why = f"share {'grows' if wish.which is Which.GROW else 'shrinks'}: {nameless(wish.reason)}"
        try:
            await self._manoeuvres.start_together(
                moves, why, alternatives_of(wish), inputs_of(wish), share_by=ShareBy.PLANNER
            )
        except (Conflict, NotReady):
            return False  # it is on its way already, or gone: the next look sees
        return True

    async def _say_stuck(self, steps: Mapping[str, Step]) -> None:
        """That no share helps is said once for as long as it lasts, and not where another replica is added instead."""
        stuck: dict[str, Recut] = {}
        for wish in self.wishes:
            adding = any((s := steps.get(name)) is not None and s.action == "add" for name in wish.models)
            if wish.due and wish.target is None and not adding:
                stuck[wish.cut.partition.id] = wish
        for name in stuck.keys() - self._said:
            await self._record(stuck[name])
        self._said = set(stuck)

    async def _record(self, wish: Recut) -> None:
        scene, placement = self._scene, wish.cut.holdings[0].resident.placement
        entry, version = scene.catalog.model_by_id(placement.model_id), scene.version(placement)
        if entry is None or version is None or not self.enabled:
            return
        async with scene.catalog.transaction() as tx:
            summary = f"keeps its share on {placement.node}: {nameless(wish.reason)}"
            await tx.insert(scene.decision(entry, version, "reshare", summary, alternatives_of(wish), inputs_of(wish)))
        log.warning("no larger share", model=entry.model.name, late=round(wish.late_now, 3))


def inputs_of(wish: Recut) -> dict[str, str]:
    """What a change of share was decided by."""
    worst = max(
        (h.load for h in wish.cut.holdings if h.load is not None), key=lambda load: load.rate_per_s, default=None
    )
    named = {
        "trigger": "at_risk" if wish.which is Which.GROW else "saving",
        "share_now": str(wish.cut.size),
        "share_then": str(wish.then),
        "late_now": f"{wish.late_now:.4f}",
        "late_then": f"{wish.late_then:.4f}",
        "held_s": f"{wish.held_s:.0f}",
    }
    if worst is None:
        return named
    return {**named, "rate_bound_per_s": f"{worst.rate_per_s:.2f}", "burstiness_cv": f"{worst.burstiness:.2f}"}


def alternatives_of(wish: Recut) -> tuple[Alternative, ...]:
    """The share as it is, the one that was chosen, and those that were tried before it."""
    now, then = wish.cut.size, wish.then
    kept = Alternative(str(now), wish.target is None, f"{wish.late_now:.1%} expected too late")
    chosen = (
        (Alternative(str(then), True, f"{wish.late_then:.1%} expected too late: {wish.reason}"),) if wish.target else ()
    )
    return (kept, *chosen, *wish.looked_at)


def _where(placement: Placement) -> Where:
    return placement.node, placement.partition.device_id
