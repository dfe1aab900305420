"""What regrouping asks of the devices: who is at risk, where one could go, whether one can be emptied. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace

from router.policy.placement import place
from router.policy.regroup_words import Move, RegroupLimits, Resident, Where, Why
from router.policy.sharing import effect, keeps, observed_strain
from router.policy.sharing_words import Bounds, Sharing
from router.policy.wants import Chosen, NodeView, NoPlace, Operator, Standing


class Plan:
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
        self._operator = operator
        self._new_id = new_id
        self._bounds = bounds
        self._limits = limits
        self._by_name = {(n.name, d.id): d for n in nodes for d in n.devices}
        self._risk: dict[Where, float] = {}
        self.devices: dict[Where, list[Resident]] = {}
        for one in residents:
            if one.where in self._by_name:
                self.devices.setdefault(one.where, []).append(one)

    def risks(self) -> Iterator[None]:
        """Reckons every device's risk, one by one: whoever iterates lets other work run in between."""
        for where in self.devices:
            self.risk(where)
            yield

    def risk(self, where: Where) -> float:
        """The worst strain on a device by what was seen; 0.0 where all keep their objectives, or would not alone."""
        if where not in self._risk:
            here = self.devices[where]
            self._risk[where] = 0.0 if any(r.fixed for r in here) else self._strain(where, here, observed=True)
        return self._risk[where]

    def _strain(self, where: Where, here: Sequence[Resident], *, observed: bool) -> float:
        if len(here) < 2:
            return 0.0
        device, sharing = self._by_name[where], self._operator.sharing
        worst = 0.0
        there = [r.tenancy for r in here]
        for at, one in enumerate(here):
            others = [*there[:at], *there[at + 1 :]]
            # Nearly everybody keeps the objective nearly always: that is told at once.
            if not keeps(there[at], others, device, self._bounds, sharing):
                found = effect(there[at], others, device, self._bounds, sharing)
                worst = max(worst, found.strain if found.sharing is Sharing.HARMFUL else 0.0)
            if observed and one.observed > 1.0:
                worst = max(worst, observed_strain(there[at], one.observed, device, self._bounds, sharing))
        return worst

    def best_apart(self, where: Where, strain: float, held_s: float) -> Move:
        """The move that helps most: all keep their objectives, then the least to load, then the least strain."""
        best: Move | None = None
        elsewhere = self._near(w for w in self._by_name if w != where)
        nodes, standing = self._only(elsewhere), self._on([*elsewhere, where])
        for one in self.devices[where]:
            found = self._place(one, nodes, standing, {one.placement.id})
            if isinstance(found, NoPlace):
                continue
            # What is observed holds for those that are there now.
            left = [r for r in self.devices[where] if r is not one]
            then = max(found.strain, self._strain(where, left, observed=False))
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

    def emptied(self, where: Where, others: Iterable[Where]) -> list[Move]:
        """Where all of a device would go, so that it is free; empty: they cannot, or not with enough room."""
        near = self._near(others)
        nodes, standing = self._only(near), self._on([*near, where])
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

    def _near(self, devices: Iterable[Where]) -> list[Where]:
        """The devices that are looked at as targets: some empty ones, and of those in use the ones with most room."""
        empty: list[Where] = []
        in_use: list[Where] = []
        for where in devices:
            (in_use if where in self.devices else empty).append(where)
        in_use.sort(key=lambda w: (len(self.devices[w]), w))
        most = self._limits.targets
        return [*in_use[:most], *empty[:most]]

    def _on(self, devices: Collection[Where]) -> list[Standing]:
        """Who stands there: trust asks after nobody further away."""
        return [r.member.standing for where in devices for r in self.devices.get(where, ())]

    def _only(self, devices: Collection[Where]) -> list[NodeView]:
        kept = set(devices)
        views = [NodeView(n.name, tuple(d for d in n.devices if (n.name, d.id) in kept)) for n in self._nodes]
        return [view for view in views if view.devices]


def _preference(move: Move) -> tuple[bool, int, float, str]:
    return move.strain_then > 1.0, move.placement.memory_bytes, move.strain_then, move.placement.id
