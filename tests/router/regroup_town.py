"""Residents of simulated devices who cost each other what a table says; moves are done at once."""

from __future__ import annotations

from dataclasses import replace

from sharing_world import Fleet, Table, gpu

from partywall.domain.placements import Placement
from router.policy.placement import Want
from router.policy.regroup import Move, Plan, Regrouper, RegroupLimits, Resident
from router.policy.retarget import Member

HEAVY, LIGHT = frozenset({"h1", "h2", "h3"}), frozenset({"l1", "l2", "l3", "l4"})
LOOK_S = 2.0


class Town:
    """A fleet whose moves are done at once. `traffic` is how busy each model is now; all of it was seen."""

    def __init__(self, devices: int, limits: RegroupLimits | None = None, **traffic: float) -> None:
        self.fleet = Fleet(*(gpu(f"gpu{n}") for n in range(devices)), bounds=Table(HEAVY, LIGHT))
        self.regrouper = Regrouper(limits)
        self.traffic = traffic
        self.observed: dict[str, float] = {}
        self.fixed: set[str] = set()
        self.wants: dict[str, Want] = {}
        self.now_s = 0.0
        self.done: list[tuple[float, Move]] = []
        self.wishes: list[Move] = []

    def put(self, model: str, device: str, **more: object) -> None:
        """Stands it there, whatever the policy says."""
        wanted = self.fleet.want(model, **more)  # type: ignore[arg-type]
        others = self.fleet.nodes
        self.fleet.nodes = [replace(n, devices=tuple(d for d in n.devices if d.id == device)) for n in others]
        self.fleet.must(wanted)
        self.fleet.nodes = others
        self.wants[model] = wanted

    def residents(self) -> list[Resident]:
        out = []
        for standing in self.fleet.standing:
            model = standing.placement.model_id
            busy = self.traffic.get(model, 0.0)
            work = replace(standing.work, busy=busy)
            member = Member(replace(standing, work=work), replace(self.wants[model], work=work))
            out.append(Resident(member, work, self.observed.get(model, 0.0), model in self.fixed))
        return out

    def run(self, seconds: float) -> list[tuple[float, Move]]:
        """Looks every two seconds; answers what was moved in that time."""
        before, until = len(self.done), self.now_s + seconds
        bounds = self.fleet.bounds
        assert bounds is not None
        while self.now_s < until:
            self.now_s += LOOK_S
            plan = Plan(
                self.fleet.nodes, self.residents(), self.fleet.operator, self.fleet.name, bounds, self.regrouper.limits
            )
            self.wishes = self.regrouper.look(self.now_s, plan)
            moves = [m for m in self.wishes if m.due and m.target is not None]
            for move in moves:
                self._do(move)
            self.regrouper.moved(self.now_s, moves)
        return self.done[before:]

    def _do(self, move: Move) -> None:
        assert move.target is not None
        self.done.append((self.now_s, move))
        moved = next(s for s in self.fleet.standing if s.placement.id == move.placement.id)
        self.fleet.standing.remove(moved)
        placement: Placement = replace(
            move.placement, id=self.fleet.name("p"), node=move.target.node, partition=move.target.partition,
            worker_id=move.target.worker_id,
        )  # fmt: skip
        self.fleet.standing.append(replace(moved, placement=placement))

    def device(self, model: str) -> str:
        return self.fleet.device(model)
