"""Replicas on shares of simulated devices whose true speed by share is known; cutting anew is done at once."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from sharing_world import GIB, Table, gpu

from isolation.trust import Resident as Owner
from partywall.domain.fleet import Device, DeviceKind, PartitionKind
from partywall.domain.placements import Placement
from partywall.domain.tenants import TrustPolicy
from router.policy.neighbour_costs import Occupant, Prediction
from router.policy.placement import NodeView, Operator, Standing, Want, place
from router.policy.regroup_words import RegroupLimits, Resident
from router.policy.reshare import Curve, Holding, Load, Recut, ReshareLimits, Resharer, SharePlan, Which
from router.policy.retarget import Member
from router.policy.sharing import share_percent
from router.policy.sharing_words import Work
from router.policy.wants import Chosen

LOOK_S = 5.0
BATCHES = (1, 2, 4, 8)


def cpu(cores: int, name: str = "cpu") -> Device:
    return Device(name, DeviceKind.CPU, "CPU", 64 * GIB, cores, tuple(range(cores)), (PartitionKind.CPUSET,))


@dataclass
class Model:
    """What is true of a model: seconds of one row on the whole device, and how well it uses more of it."""

    whole_s: float = 0.005
    scaling: float = 0.9
    objective_ms: int = 100
    rate: float = 10.0
    cv: float = 1.0
    at_risk: bool = False
    steady: bool = True
    asked: bool = False
    fixed: bool = False
    owner: str = ""
    group: str = "g"
    known: bool = True

    def service_s(self, percent: int, rows: int = 1) -> float:
        return self.whole_s * (100 / percent) ** self.scaling * (0.4 + 0.6 * rows)

    @property
    def curve(self) -> Curve:
        return {(b, p): self.service_s(p, b) for b in BATCHES for p in (25, 50, 75, 100)}


@dataclass
class Truth(Table):
    """Solo times by share; a heavy one costs its neighbours more, the larger its share is."""

    models: Mapping[str, Model] = field(default_factory=dict)

    def solo_s(self, device_type: str, model_id: str, version: int, share_percent: int) -> float | None:
        model = self.models.get(model_id)
        return model.service_s(share_percent) if model is not None and model.known else None

    def bound(
        self, device_type: str, victim: Occupant, neighbours: Sequence[Occupant], kind: PartitionKind
    ) -> Prediction:
        heavy = max((n.share_percent for n in neighbours if n.model_id in self.heavy), default=0)
        self.beside_heavy = 1.0 + 0.01 * heavy
        return super().bound(device_type, victim, neighbours, kind)


@dataclass
class Estate:
    """One node. `put` stands a model on a share; `run` looks every five seconds."""

    devices: Sequence[Device]
    models: dict[str, Model]
    limits: ReshareLimits = field(default_factory=ReshareLimits)
    operator: Operator = field(default_factory=Operator)
    grouping: RegroupLimits | None = None

    def __post_init__(self) -> None:
        self.resharer = Resharer(self.limits)
        names = frozenset(self.models)
        heavy = frozenset(n for n in names if n.startswith("h"))
        self.bounds = Truth(heavy, names - heavy, models=self.models)
        self.nodes = [NodeView("n1", tuple(self.devices))]
        self.standing: list[Standing] = []
        self.waiting: list[Want] = []
        self.replica_units: dict[str, int] = {}
        self.done: list[tuple[float, Recut]] = []
        self.wishes: list[Recut] = []
        self.now_s = 0.0
        self._ids = itertools.count()

    def new_id(self, prefix: str) -> str:
        return f"{prefix}{next(self._ids)}"

    def want(self, name: str, share: int = 0) -> Want:
        model = self.models.get(name) or Model()
        owner = Owner(model.owner or f"t-{name}", TrustPolicy.PROCESS, model.group)
        return Want(owner, name, 1, GIB, 90 << 20, share, work=Work(model.objective_ms / 1e3, busy=0.0))

    def put(self, name: str, device: str, share: int) -> None:
        view = [NodeView("n1", tuple(d for d in self.devices if d.id == device))]
        found = place(self.want(name, share), view, self.standing, self.operator, self.new_id)
        assert isinstance(found, Chosen), found
        owner = self.want(name).resident
        placement = Placement(
            self.new_id("p"), owner.tenant_id, name, 1, "n1", found.partition, found.worker_id, GIB, 1
        )  # fmt: skip
        self.standing.append(Standing(placement, owner, work=self.work(name, placement)))

    def work(self, name: str, placement: Placement) -> Work:
        model = self.models[name]
        busy = min(1.0, model.rate * model.service_s(self._percent(placement)))
        return Work(model.objective_ms / 1e3, 1.0, min(model.rate, 1 / model.service_s(100)), busy)

    def _percent(self, placement: Placement) -> int:
        device = next(d for d in self.devices if d.id == placement.partition.device_id)
        return share_percent(placement.partition, device)

    def percent(self, name: str) -> int:
        (one,) = [s.placement for s in self.standing if s.placement.model_id == name]
        return self._percent(one)

    def holding(self, standing: Standing) -> Holding:
        name = standing.placement.model_id
        model, percent = self.models[name], self._percent(standing.placement)
        work = self.work(name, standing.placement)
        member = Member(replace(standing, work=work), self.want(name))
        times = {b: model.service_s(percent, b) for b in BATCHES}
        load = Load(times, model.objective_ms, model.rate, model.cv, 1, model.at_risk, model.steady)
        curve = model.curve if model.known else {}
        return Holding(Resident(member, work, fixed=model.fixed), curve, load if model.known else None, model.asked)

    def run(self, seconds: float) -> list[tuple[float, Recut]]:
        """Answers what was cut in that time."""
        before, until = len(self.done), self.now_s + seconds
        while self.now_s < until:
            self.now_s += LOOK_S
            holdings = [self.holding(s) for s in self.standing]
            standing = [h.resident.member.standing for h in holdings]
            plan = SharePlan(
                self.nodes, holdings, standing, self.operator, self.new_id, self.bounds, self.limits,
                self.waiting, self.grouping,
            )  # fmt: skip
            for _ in plan.reckoned():
                pass
            self.wishes = self.resharer.look(self.now_s, plan, self.replica_units.get)
            for wish in self.wishes:
                if wish.due and wish.target is not None:
                    self._do(wish)
        return self.done[before:]

    def _do(self, wish: Recut) -> None:
        assert wish.target is not None
        self.done.append((self.now_s, wish))
        fresh = {
            h.resident.placement.id: c.worker_id
            for h, c in zip(wish.cut.holdings, wish.target.chosen, strict=True)
        }  # fmt: skip
        for at, one in enumerate(self.standing):
            if one.placement.id in fresh:
                placement = replace(
                    one.placement, partition=wish.target.partition, worker_id=fresh[one.placement.id]
                )  # fmt: skip
                self.standing[at] = replace(one, placement=placement)
        self.resharer.changed(self.now_s, [wish.cut.where])


def pair(rate: float = 10.0, **more: object) -> Estate:
    """One model on one of four cores."""
    estate = Estate([cpu(4)], {"m": Model(rate=rate, **more)})  # type: ignore[arg-type]
    estate.put("m", "cpu", 25)
    return estate


__all__ = ["Estate", "Model", "Which", "cpu", "gpu", "pair"]
