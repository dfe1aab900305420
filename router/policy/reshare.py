"""When the share of a replica that stands is cut anew: larger at once when it is too small, smaller later. Pure.

A share is *too small* when more than `miss` of the requests is expected too late at the forecast rate and burstiness
with the service times that are seen (Kingman's bound, as for replicas and offline shares). It grows at once where the
objective is missed faster than allowed and the replica is busy, after `confirm_s` where only the forecast says so, to
the least share that does with `headroom`, where that is free, leaves room for the next tenant, makes nobody there
worse off and is cheaper than another replica.

A share is *larger than needed* when `band` of it or less would do with `headroom`. It shrinks when that was so without
a break for `hold_s` and somebody could use what becomes free: else shrinking buys nothing. A share that was sized with
headroom is enough without, and is not cut again below `band`: so steady load changes nothing. A share that
somebody asked for is never touched; a device settles after each change on it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

from router.policy.regroup_words import Where
from router.policy.reshare_curve import used
from router.policy.reshare_plan import SharePlan
from router.policy.reshare_words import Curve, Cut, Holding, Load, Recut, ReshareLimits, Size, Which
from router.policy.triggers import SavingWatch, TriggerSettings

__all__ = ["Curve", "Cut", "Holding", "Load", "Recut", "ReshareLimits", "Resharer", "SharePlan", "Size", "Which"]

Key = tuple[str, str]
"""(node, partition id)."""
ByReplicas = Callable[[str], int | None]


@dataclass(slots=True)
class _Spare:
    """A share that is larger than needed: since when, and who could use what is too much."""

    since_s: float
    saving: SavingWatch
    gain: str = ""


class Resharer:
    """Remembers since when shares are too small or too large. `look` every few seconds; `changed`: what was done."""

    def __init__(self, limits: ReshareLimits | None = None) -> None:
        self.limits = limits or ReshareLimits()
        self._short_since: dict[Key, float] = {}
        self._spare: dict[Key, _Spare] = {}
        self._asked: Key = ("", "")
        self._settling: dict[Where, float] = {}

    def look(self, now_s: float, plan: SharePlan, by_replicas: ByReplicas = lambda model_id: None) -> list[Recut]:
        """What would be cut anew, and what of it now: at most one share of a device.

        Args:
            now_s: The caller's monotonic clock.
            plan: What stands.
            by_replicas: Percent of a device that as many more replicas as a model needs would cost, by its id; None:
                they are not to be had. A share that would grow by more leaves it to that.
        """
        self._settling = {w: until for w, until in self._settling.items() if until > now_s}
        grow = self._grow(now_s, plan, by_replicas)
        growing = {r.cut.where for r in grow if r.due and r.target is not None}
        shrink = self._shrink(now_s, plan, [r for r in grow if r.target is None], growing)
        return [*grow, *shrink]

    def changed(self, now_s: float, devices: Collection[Where]) -> None:
        """Something was changed on these devices: they are left alone for a while."""
        for where in devices:
            self._settling[where] = now_s + self.limits.settle_s

    def _open(self, cut: Cut) -> bool:
        """Whether a share may be changed at all now. Replicas come and go by themselves while their number changes."""
        return cut.where not in self._settling and all(
            not h.asked and not h.resident.fixed and h.curve and (h.load is None or h.load.steady) for h in cut.holdings
        )

    def _grow(self, now_s: float, plan: SharePlan, by_replicas: ByReplicas) -> list[Recut]:
        limits = self.limits
        short = {
            c.key: (late, c) for c in plan.cuts if self._open(c) and (late := plan.late_now(c) or 0.0) > limits.miss
        }
        self._short_since = {key: self._short_since.get(key, now_s) for key in short}
        found: list[Recut] = []
        # A place is looked for where it is worst.
        for _, cut in sorted(short.values(), key=lambda one: (-one[0], one[1].key))[: limits.gains]:
            held_s = now_s - self._short_since[cut.key]
            wish = plan.grown(cut)
            if wish.target is not None and self._dearer(wish, by_replicas):
                continue
            found.append(wish.waiting(held_s, due=self._pressing(cut) or held_s >= limits.confirm_s))
        return _one_of_a_device(sorted(found, key=lambda r: (not r.due, -r.late_now, r.cut.key)))

    def _pressing(self, cut: Cut) -> bool:
        """Whether requests come late now because the share is busy."""
        return any(
            h.load is not None and h.load.at_risk and used(h, cut.size, cut.size) > self.limits.busy
            for h in cut.holdings
        )

    def _dearer(self, wish: Recut, by_replicas: ByReplicas) -> bool:
        """Whether more replicas cost less of a device than all replicas' growing by as much."""
        more = wish.then.percent - wish.cut.size.percent
        for holding in wish.cut.holdings:
            one = by_replicas(holding.resident.placement.model_id)
            if one is not None and holding.load is not None and more * holding.load.replicas > one:
                return True
        return False

    def _shrink(self, now_s: float, plan: SharePlan, short: Sequence[Recut], growing: Collection[Where]) -> list[Recut]:
        held = self._spare
        self._spare = {}
        spare: list[tuple[bool, Key, Cut]] = []
        for cut in plan.cuts:
            if not self._open(cut) or cut.key in self._short_since or not plan.roomy(cut):
                continue
            if any(h.load is not None and h.load.at_risk for h in cut.holdings):
                continue
            watch = held.get(cut.key) or _Spare(now_s, SavingWatch(TriggerSettings(hold_s=self.limits.hold_s)))
            self._spare[cut.key] = watch
            spare.append((not watch.saving.observe(now_s, 1.0), cut.key, cut))
        found: list[Recut] = []
        for soon, key, cut in self._turn(spare):
            watch, wish = self._spare[key], plan.shrunk(cut)
            watch.gain = plan.gain(wish, short) if wish is not None else ""
            if wish is not None and watch.gain:
                due = not soon and cut.where not in growing
                reason = f"{wish.reason}, and {watch.gain}"
                found.append(replace(wish, reason=reason, held_s=now_s - watch.since_s, due=due))
        return _one_of_a_device(sorted(found, key=lambda r: (not r.due, -_freed(r), r.cut.key)))

    def _turn(self, spare: Sequence[tuple[bool, Key, Cut]]) -> list[tuple[bool, Key, Cut]]:
        """A few at a time, for who gains is a search through the fleet: those that have held first, then in turn."""
        ordered = sorted(spare, key=lambda one: (one[0], one[1] <= self._asked, one[1]))
        chosen = ordered[: self.limits.gains]
        if chosen:
            self._asked = chosen[-1][1]
        return chosen


def _one_of_a_device(wishes: Sequence[Recut]) -> list[Recut]:
    """Of those that could be done now on one device the first stays due."""
    taken: set[Where] = set()
    out: list[Recut] = []
    for wish in wishes:
        doable = wish.due and wish.target is not None
        out.append(wish.waiting(wish.held_s, due=False) if doable and wish.cut.where in taken else wish)
        if doable:
            taken.add(wish.cut.where)
    return out


def _freed(wish: Recut) -> int:
    return wish.cut.size.units - wish.then.units
