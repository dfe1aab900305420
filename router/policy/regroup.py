"""When residents that stand are moved: apart as soon as an objective is at risk, together when that holds. Pure.

A device is *at risk* when a resident's strain (`sharing.strain`) is above 1 by what was seen of its neighbours: at the
bound on its slowdown, or at the slowdown observed. When it stays so for `split_after_s`, one of those there moves to
an acceptable place where the strain is less by `margin`, judged as for a newcomer: what was never seen is always busy.

A device is *spare* when all its residents would stand acceptably on devices in use, strained to 1 / `merge_margin` at
most. When it stays so for `hold_s`, they move. Risk needs more than 1 by what was seen, merging less by what is feared,
and what was split is left alone for `rest_s`: so steady predictions move nothing to and fro.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

from router.policy.placement import place
from router.policy.regroup_words import Move, RegroupLimits, Resident, Where, Why
from router.policy.sharing import effects, observed_strain
from router.policy.sharing_words import Bounds, Sharing
from router.policy.triggers import SavingWatch, TriggerSettings
from router.policy.wants import Chosen, NodeView, NoPlace, Operator, Standing

__all__ = ["Move", "RegroupLimits", "Regrouper", "Resident", "Why"]


class Regrouper:
    """Remembers since when devices are at risk or spare. `look` every few seconds; `moved` says what was done."""

    def __init__(self, limits: RegroupLimits | None = None) -> None:
        self.limits = limits or RegroupLimits()
        self._risky_since: dict[Where, float] = {}
        self._spare: dict[Where, tuple[float, SavingWatch]] = {}
        self._settling: dict[Where, float] = {}
        self._resting: dict[Where, float] = {}

    def look(
        self,
        now_s: float,
        nodes: Sequence[NodeView],
        residents: Sequence[Resident],
        operator: Operator,
        new_id: Callable[[str], str],
        bounds: Bounds,
    ) -> list[Move]:
        """What would be moved, and what of it now: one move apart, or all of one spare device."""
        self._settling = {d: until for d, until in self._settling.items() if until > now_s}
        self._resting = {d: until for d, until in self._resting.items() if until > now_s}
        if not bounds.informed():
            return []
        plan = _Plan(nodes, residents, operator, new_id, bounds, self.limits)
        moves = self._apart(now_s, plan)
        # Merging waits while anybody is at risk anywhere: the room that it would use may be needed.
        if moves:
            self._spare.clear()
            return moves
        return self._together(now_s, plan)

    def moved(self, now_s: float, moves: Sequence[Move]) -> None:
        """These have begun: their devices settle, and what was split is not merged soon."""
        for move in moves:
            ends = [(move.placement.node, move.placement.partition.device_id)]
            if move.target is not None:
                ends.append((move.target.node, move.target.partition.device_id))
            for where in ends:
                self._settling[where] = now_s + self.limits.settle_s
                self._risky_since.pop(where, None)
                self._spare.pop(where, None)
                if move.why is Why.APART:
                    self._resting[where] = now_s + self.limits.rest_s

    def _apart(self, now_s: float, plan: _Plan) -> list[Move]:
        limits = self.limits
        risky = {w: strain for w in plan.devices if w not in self._settling and (strain := plan.risk(w)) > 1.0}
        self._risky_since = {w: self._risky_since.get(w, now_s) for w in risky}
        out: list[Move] = []
        for where, strain in sorted(risky.items(), key=lambda item: -item[1]):
            held_s = now_s - self._risky_since[where]
            due = held_s >= limits.split_after_s and not any(m.due and m.target is not None for m in out)
            found = plan.best_apart(where, strain, held_s)
            if found is not None:
                out.append(replace(found, due=due))
        return out

    def _together(self, now_s: float, plan: _Plan) -> list[Move]:
        limits = self.limits
        in_use = [w for w in plan.devices if w not in self._settling and w not in self._resting]
        held = {w: watch for w, watch in self._spare.items() if w in in_use}
        self._spare = {}
        for where in sorted(in_use, key=lambda w: (len(plan.devices[w]), w))[: limits.spares]:
            moves = plan.emptied(where, [w for w in in_use if w != where])
            if not moves:
                continue
            since_s, watch = held.get(where) or (now_s, SavingWatch(TriggerSettings(hold_s=limits.hold_s)))
            due = watch.observe(now_s, 1.0)
            self._spare[where] = since_s, watch
            return [replace(m, held_s=now_s - since_s, due=due) for m in moves]
        return []


class _Plan:
    """One look's data, and the questions to it."""

    def __init__(
        self,
        nodes: Sequence[NodeView],
        residents: Sequence[Resident],
        operator: Operator,
        new_id: Callable[[str], str],
        bounds: Bounds,
        limits: RegroupLimits,
    ) -> None:
        self._nodes = nodes
        self._standing = [r.member.standing for r in residents]
        self._operator = operator
        self._new_id = new_id
        self._bounds = bounds
        self._limits = limits
        self._by_name = {(n.name, d.id): d for n in nodes for d in n.devices}
        self.devices: dict[Where, list[Resident]] = {}
        for one in residents:
            if one.where in self._by_name:
                self.devices.setdefault(one.where, []).append(one)

    def risk(self, where: Where, without: str = "") -> float:
        """The worst strain on a device by what was seen; 0.0 where all keep their objectives, or would not alone."""
        here = [r for r in self.devices[where] if r.placement.id != without]
        if len(here) < 2 or any(r.fixed for r in here):
            return 0.0
        device, sharing = self._by_name[where], self._operator.sharing
        worst = 0.0
        there = effects([r.tenancy for r in here], device, self._bounds, sharing)
        for one, effect in zip(here, there, strict=True):
            if effect.sharing is Sharing.HARMFUL:
                worst = max(worst, effect.strain)
            # What is observed holds for those that are there now.
            if not without and one.observed > 1.0 and effect.sharing is not Sharing.UNKNOWN:
                worst = max(worst, observed_strain(one.tenancy, one.observed, device, self._bounds, sharing))
        return worst

    def best_apart(self, where: Where, strain: float, held_s: float) -> Move | None:
        """The move that helps most: all keep their objectives, then the least to load, then the least strain."""
        best: Move | None = None
        elsewhere = self._only([w for w in self._by_name if w != where])
        for one in self.devices[where]:
            found = self._place(one, elsewhere, self._standing, {one.placement.id})
            if isinstance(found, NoPlace):
                continue
            then = max(found.strain, self.risk(where, without=one.placement.id))
            # Nobody elsewhere is made to pay for it.
            if found.sharing is not Sharing.ACCEPTABLE or then * self._limits.margin > strain:
                continue
            reason = (
                f"apart: an objective is missed beside its neighbours (strain {strain:.2f} here for {held_s:.0f} s, "
                f"at most {then:.2f} after it)"
            )
            move = Move(one.placement, found, Why.APART, reason, strain, then, held_s, False)
            if best is None or _preference(move) < _preference(best):
                best = move
        if best is not None:
            return best
        victim = self.devices[where][0]
        reason = f"an objective is missed beside its neighbours (strain {strain:.2f}), and no other place is better"
        return Move(victim.placement, None, Why.APART, reason, strain, strain, held_s, False)

    def emptied(self, where: Where, others: Collection[Where]) -> list[Move]:
        """Where all of a device would go, so that it is free; empty: they cannot, or not with enough room."""
        nodes = self._only(others)
        standing = list(self._standing)
        moves: list[Move] = []
        for one in sorted(self.devices[where], key=lambda r: (-r.placement.memory_bytes, r.placement.id)):
            if one.fixed:
                return []
            found = self._place(one, nodes, standing, {r.placement.id for r in self.devices[where]})
            if isinstance(found, NoPlace) or found.sharing is not Sharing.ACCEPTABLE:
                return []
            if found.strain * self._limits.merge_margin > 1.0:
                return []
            reason = f"together: its device becomes free (strain at most {found.strain:.2f} where it goes)"
            moves.append(Move(one.placement, found, Why.TOGETHER, reason, 0.0, found.strain, 0.0, False))
            there = replace(
                one.placement, id=f"{one.placement.id}+", node=found.node, partition=found.partition,
                worker_id=found.worker_id,
            )  # fmt: skip
            standing.append(replace(one.member.standing, placement=there))
        return moves

    def _place(
        self, one: Resident, nodes: Sequence[NodeView], standing: Sequence[Standing], leaving: Collection[str]
    ) -> Chosen | NoPlace:
        want = one.member.want
        return place(want, nodes, standing, self._operator, self._new_id, leaving=leaving, bounds=self._bounds)

    def _only(self, devices: Collection[Where]) -> list[NodeView]:
        kept = set(devices)
        views = [NodeView(n.name, tuple(d for d in n.devices if (n.name, d.id) in kept)) for n in self._nodes]
        return [view for view in views if view.devices]


def _preference(move: Move) -> tuple[bool, int, float, str]:
    return move.strain_then > 1.0, move.placement.memory_bytes, move.strain_then, move.placement.id
