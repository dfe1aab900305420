"""When residents that stand are moved: apart as soon as an objective is at risk, together when that holds. Pure.

A device is *at risk* when a resident's strain (`sharing.strain`) is above 1 by what was seen of its neighbours: at the
bound on its slowdown, or at the slowdown observed. When it stays so for `split_after_s`, one of those there moves to
an acceptable place where the strain is less by `margin`, judged as for a newcomer: what was never seen is always busy.

A device is *spare* when all its residents would stand acceptably on devices in use, strained to 1 / `merge_margin` at
most. When it stays so for `hold_s`, they move. Risk needs more than 1 by what was seen, merging less by what is feared,
and what was split is left alone for `rest_s`: so steady predictions move nothing to and fro.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import replace

from router.policy.regroup_plan import Plan
from router.policy.regroup_words import Move, RegroupLimits, Resident, Where, Why
from router.policy.triggers import SavingWatch, TriggerSettings

__all__ = ["Move", "Plan", "RegroupLimits", "Regrouper", "Resident", "Why"]


class Regrouper:
    """Remembers since when devices are at risk or spare. `look` every few seconds; `moved` says what was done."""

    def __init__(self, limits: RegroupLimits | None = None) -> None:
        self.limits = limits or RegroupLimits()
        self._risky_since: dict[Where, float] = {}
        self._spare: dict[Where, tuple[float, SavingWatch]] = {}
        self._settling: dict[Where, float] = {}
        self._resting: dict[Where, float] = {}
        self._searched: dict[Where, tuple[float, Move]] = {}

    def look(self, now_s: float, plan: Plan) -> list[Move]:
        """What would be moved, and what of it now: one move apart, or all of one spare device."""
        self._settling = {d: until for d, until in self._settling.items() if until > now_s}
        self._resting = {d: until for d, until in self._resting.items() if until > now_s}
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
            self.settle(now_s, ends)
            for where in ends:
                if move.why is Why.APART:
                    self._resting[where] = now_s + self.limits.rest_s

    def settle(self, now_s: float, devices: Collection[Where]) -> None:
        """These are left alone for a while."""
        for where in devices:
            self._settling[where] = now_s + self.limits.settle_s
            self._risky_since.pop(where, None)
            self._spare.pop(where, None)

    def _apart(self, now_s: float, plan: Plan) -> list[Move]:
        limits = self.limits
        risky = {w: strain for w in plan.devices if w not in self._settling and (strain := plan.risk(w)) > 1.0}
        self._risky_since = {w: self._risky_since.get(w, now_s) for w in risky}
        self._searched = {w: found for w, found in self._searched.items() if w in risky}
        out: list[Move] = []
        searched = False
        for where, strain in sorted(risky.items(), key=lambda item: -item[1]):
            since_s = self._risky_since[where]
            due = now_s - since_s >= limits.split_after_s
            # A search is dear in a large fleet: one a look, and where nothing helped, again after a while.
            if not searched and self._is_stale(now_s, where, since_s, due=due):
                self._searched[where] = now_s, plan.best_apart(where, strain, now_s - since_s)
                searched = True
            if where in self._searched:
                at_s, move = self._searched[where]
                out.append(replace(move, due=due and (at_s == now_s or move.target is None)))
        return out

    def _is_stale(self, now_s: float, where: Where, since_s: float, *, due: bool) -> bool:
        at_s, move = self._searched.get(where, (-math.inf, None))
        if move is None or (due and at_s < since_s + self.limits.split_after_s):
            return True
        return now_s - at_s >= (self.limits.settle_s if move.target is None else 0.0) and due

    def _together(self, now_s: float, plan: Plan) -> list[Move]:
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
