"""What cutting shares anew asks of the devices: is one too small, what would cure it, who gains by less. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from partywall.domain.placements import Alternative
from router.policy import reshare_checks as checks
from router.policy.placement import place
from router.policy.regroup_plan import Plan
from router.policy.regroup_words import RegroupLimits, Resident, Where
from router.policy.reshare_curve import late
from router.policy.reshare_words import Cut, Holding, Recut, ReshareLimits, Size, Which
from router.policy.retarget import Target, retarget
from router.policy.sharing_words import Bounds, Sharing
from router.policy.wants import NodeView, NoPlace, Operator, Standing, Want


class SharePlan:
    """One look's data, and the questions to it.

    Args:
        nodes: The live nodes.
        holdings: All replicas that stand.
        standing: All placements, those on their way too.
        operator: The operator's say.
        new_id: `new_id(prefix)` names new partitions and workers.
        bounds: The interference model.
        limits: See `ReshareLimits`.
        waiting: Replicas that have no place.
        grouping: Whether and how residents would be moved together to free a device; None: they are not.
    """

    def __init__(
        self,
        nodes: Sequence[NodeView],
        holdings: Sequence[Holding],
        standing: Sequence[Standing],
        operator: Operator,
        new_id: Callable[[str], str],
        bounds: Bounds,
        limits: ReshareLimits,
        waiting: Sequence[Want] = (),
        grouping: RegroupLimits | None = None,
    ) -> None:
        self._nodes = nodes
        self._standing_on: dict[Where, list[Standing]] = {}
        self._of_tenant: dict[str, list[Standing]] = {}
        for one in standing:
            self._standing_on.setdefault(_where(one), []).append(one)
            self._of_tenant.setdefault(one.placement.tenant_id, []).append(one)
        self._operator = operator
        self._new_id = new_id
        self._bounds = bounds
        self._limits = limits
        self._waiting = waiting
        self._grouping = grouping
        self.cuts = checks.cuts_of(nodes, holdings)
        self._on: dict[Where, list[Cut]] = {}
        for cut in self.cuts:
            self._on.setdefault(cut.where, []).append(cut)
        self._late: dict[tuple[str, str], float | None] = {}
        self._roomy: dict[tuple[str, str], bool] = {}
        self._emptiest: list[Where] = []

    def reckoned(self) -> Iterator[None]:
        """Reckons every share, one by one: whoever iterates lets other work run in between."""
        for cut in self.cuts:
            self.late_now(cut)
            self.roomy(cut)
            yield

    def late_now(self, cut: Cut) -> float | None:
        """The part of the requests that is expected too late as it is; None: nobody knows."""
        if cut.key not in self._late:
            self._late[cut.key] = late(cut, cut.size)
        return self._late[cut.key]

    def roomy(self, cut: Cut) -> bool:
        """Whether a share that is smaller by enough to be worth it would do with headroom."""
        if cut.key not in self._roomy:
            limits, now = self._limits, cut.size
            smaller = [s for s in cut.sizes(limits.step_percent) if s.units <= limits.band * now.units]
            known = all(h.load is not None and h.load.known for h in cut.holdings)
            # Somebody inside who needs nobody knows how much keeps it as it is.
            with_headroom = late(cut, smaller[-1], limits.headroom) if smaller and known else None
            self._roomy[cut.key] = with_headroom is not None and with_headroom <= limits.miss
        return self._roomy[cut.key]

    def grown(self, cut: Cut) -> Recut:
        """The larger share that would cure it: the least one with headroom, else the largest that is enough at all."""
        limits, now = self._limits, cut.size
        late_now = self.late_now(cut) or 0.0
        roomy: list[Size] = []
        tight: list[Size] = []
        for size in cut.sizes(limits.step_percent):
            expected = late(cut, size) if size.units > now.units else None
            if expected is None or expected > limits.miss:
                continue
            with_headroom = late(cut, size, limits.headroom)
            (roomy if with_headroom is not None and with_headroom <= limits.miss else tight).append(size)
        if not roomy and not tight:
            words = f"{_too_small(cut, late_now)}, and no larger share would keep the objective"
            return _none(cut, now, late_now, words)
        looked_at: list[Alternative] = []
        for size in [*roomy, *reversed(tight)][: limits.searches]:
            target = self._larger(cut, size)
            if isinstance(target, Target):
                then = late(cut, size) or 0.0
                reason = f"{_too_small(cut, late_now)}; {then:.1%} at {size}"
                return Recut(cut, Which.GROW, size, target, reason, late_now, then, looked_at=tuple(looked_at))
            looked_at.append(Alternative(str(size), False, target))
        least = (roomy or tight)[0]
        words = f"{_too_small(cut, late_now)}, and {looked_at[0].reason}"
        return replace(_none(cut, least, late_now, words), looked_at=tuple(looked_at))

    def shrunk(self, cut: Cut) -> Recut | None:
        """The least share that would do with headroom, if it is small enough to be worth it; None: there is none."""
        limits, now = self._limits, cut.size
        if not self.roomy(cut):
            return None
        for size in cut.sizes(limits.step_percent):
            if size.units > limits.band * now.units:
                return None
            with_headroom = late(cut, size, limits.headroom)
            if with_headroom is not None and with_headroom <= limits.miss:
                target = self._smaller(cut, size)
                if target is not None:
                    words = f"{size} would do at {limits.headroom:g} x rate and burstiness"
                    return Recut(
                        cut, Which.SHRINK, size, target, words, self.late_now(cut) or 0.0, late(cut, size) or 0.0
                    )
        return None

    def gain(self, shrunk: Recut, short: Sequence[Recut]) -> str:
        """Who could use what becomes free; empty: nobody, and then it is left as it is.

        Args:
            shrunk: The share that could be smaller.
            short: Shares that are too small and cannot grow.
        """
        cut, target = shrunk.cut, shrunk.target
        if target is None:
            return ""
        if checks.shared_in_time(cut, self._others(cut)):
            return "its cores are shared in time with another partition"
        after = checks.standing_then(self._standing_on.get(cut.where, ()), cut, target)
        only_here = [NodeView(cut.node, (cut.device,))]
        for want in self._waiting:
            # The tenant's quota counts what it has elsewhere.
            owner = want.resident.tenant_id
            elsewhere = [s for s in self._of_tenant.get(owner, ()) if _where(s) != cut.where]
            standing = [*after, *elsewhere]
            found = place(want, only_here, standing, self._operator, self._new_id, bounds=self._bounds)
            if not isinstance(found, NoPlace) and found.sharing is not Sharing.HARMFUL:
                return f"<model:{want.model_id}> waits for a place"
        for other in short:
            fitting = other.cut.where == cut.where and other.cut.key != cut.key
            if fitting and isinstance(self._fits(other.cut, other.then, after), Target):
                names = ", ".join(f"<model:{name}>" for name in sorted(other.models))
                return f"{names} needs a larger share"
        return self._emptied(cut, target)

    def _emptied(self, cut: Cut, target: Target) -> str:
        """Whether another device's residents would then all go here."""
        grouping = self._grouping
        if grouping is None or len(self._on) < 2:
            return ""
        for where in self._fewest(grouping.spares):
            if where == cut.where:
                continue
            residents = [h.resident for w in (where, cut.where) for c in self._on[w] for h in c.holdings]
            before = self._plan(residents, grouping)
            then = self._plan(checks.residents_then(residents, cut, target), grouping)
            if then.emptied(where, [cut.where]) and not before.emptied(where, [cut.where]):
                return f"all of {where[0]}/{where[1]} would then fit here"
        return ""

    def _fewest(self, count: int) -> list[Where]:
        """Devices in use with the fewest residents."""
        if not self._emptiest:
            crowd = {w: sum(len(c.holdings) for c in cuts) for w, cuts in self._on.items()}
            self._emptiest = sorted(crowd, key=lambda w: (crowd[w], w))[:count]
        return self._emptiest

    def _plan(self, residents: Sequence[Resident], grouping: RegroupLimits) -> Plan:
        near = {r.where for r in residents}
        views = [NodeView(n.name, tuple(d for d in n.devices if (n.name, d.id) in near)) for n in self._nodes]
        return Plan(views, residents, self._operator, self._new_id, self._bounds, grouping)

    def _larger(self, cut: Cut, size: Size) -> Target | str:
        """A place for a larger share, or why there is none."""
        target = self._fits(cut, size, self._standing_on.get(cut.where, ()))
        if isinstance(target, str):
            return target
        if not checks.leaves_room(cut, target, self._others(cut)) and not self._empty_device(cut):
            return "nothing would be left there for the next tenant"
        if not checks.bearable(cut, target, self._on[cut.where], self._bounds, self._operator.sharing):
            return "it would cost its neighbours their objectives"
        return target

    def _smaller(self, cut: Cut, size: Size) -> Target | None:
        target = self._fits(cut, size, self._standing_on.get(cut.where, ()))
        if isinstance(target, str):
            return None
        quiet = checks.peaceful(cut, target, self._on[cut.where], self._bounds, self._operator.sharing)
        return target if quiet else None

    def _fits(self, cut: Cut, size: Size, standing: Sequence[Standing]) -> Target | str:
        """Where the partition would be cut to that size, on units that nobody else has; or why not."""
        members = [h.resident.member for h in cut.holdings]
        alone = replace(self._operator, overcommit=False)
        nodes = [NodeView(cut.node, (cut.device,))]
        found = retarget(size.change, cut.partition, cut.node, members, nodes, standing, alone, self._new_id)
        return found if isinstance(found, Target) else found.reason

    def _others(self, cut: Cut) -> list[Cut]:
        return [c for c in self._on[cut.where] if c.key != cut.key]

    def _empty_device(self, cut: Cut) -> bool:
        """Whether the next tenant could go to another device of the kind, where nobody is."""
        return any(
            (node.name, device.id) not in self._standing_on
            for node in self._nodes
            for device in node.devices
            if device.kind is cut.device.kind and not device.fenced
        )


def _where(standing: Standing) -> Where:
    return standing.placement.node, standing.placement.partition.device_id


def _none(cut: Cut, then: Size, late_now: float, reason: str) -> Recut:
    return Recut(cut, Which.GROW, then, None, reason, late_now, late_now)


def _too_small(cut: Cut, late_now: float) -> str:
    return f"{late_now:.1%} of the requests are expected too late at {cut.size}"
