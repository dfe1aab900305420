"""A small fleet under the interference model's policy: profiles and slowdowns from a table, GPUs cut by MPS."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from isolation.trust import Resident
from partywall.domain.fleet import Device, DeviceKind, PartitionKind
from partywall.domain.placements import Placement
from partywall.domain.tenants import TrustPolicy
from router.policy.neighbour_costs import Occupant, Prediction, TableBounds, unknown
from router.policy.placement import Chosen, NodeView, NoPlace, Operator, Standing, Want, place
from router.policy.sharing_words import Work

GIB = 1 << 30
SOLO_S = 0.010


def gpu(name: str, memory: int = 80 * GIB) -> Device:
    kinds = (PartitionKind.WHOLE, PartitionKind.MPS)
    return Device(name, DeviceKind.GPU, "H100", memory, 132, kinds=kinds)


@dataclass
class Table:
    """Bounds from a table by model id: heavy ones slow everybody, light ones nobody. Not named: not measured."""

    heavy: frozenset[str] = frozenset()
    light: frozenset[str] = frozenset()
    solo: Mapping[str, float] = field(default_factory=dict)
    beside_heavy: float = 1.8
    beside_light: float = 1.05
    asked: int = 0

    def informed(self) -> bool:
        return bool(self.heavy | self.light)

    def solo_s(self, device_type: str, model_id: str, version: int, share_percent: int) -> float | None:
        return self.solo.get(model_id, SOLO_S) if model_id in self.heavy | self.light else None

    def bound(
        self, device_type: str, victim: Occupant, neighbours: Sequence[Occupant], kind: PartitionKind
    ) -> Prediction:
        self.asked += 1
        everybody = {victim.model_id, *(n.model_id for n in neighbours)}
        if not everybody <= self.heavy | self.light:
            return unknown()
        costs = {n.model_id: self.beside_heavy if n.model_id in self.heavy else self.beside_light for n in neighbours}
        table = TableBounds({(victim.model_id, n): ((1 + c) / 2, c) for n, c in costs.items()})
        return table.bound(device_type, victim, neighbours, kind)


class Fleet:
    """Places one want after another and remembers."""

    def __init__(self, *devices: Device, bounds: Table | None = None, operator: Operator | None = None) -> None:
        self.nodes = [NodeView("n1", devices)]
        self.operator = operator or Operator()
        self.bounds = bounds
        self.prefix = ""
        self.standing: list[Standing] = []
        self._ids = itertools.count()

    def name(self, prefix: str) -> str:
        return f"{self.prefix}{prefix}{next(self._ids)}"

    def want(
        self,
        model: str,
        *,
        objective_s: float = 0.015,
        rate: float = 0.0,
        busy: float = 1.0,
        memory: int = GIB,
        policy: TrustPolicy = TrustPolicy.PROCESS,
        group: str = "g",
        share: int = 25,
    ) -> Want:
        work = Work(objective_s, 1.0, rate, busy)
        return Want(Resident(f"t-{model}", policy, group), model, 1, memory, 90 << 20, share, work=work)

    def look(self, wanted: Want, leaving: Sequence[str] = ()) -> Chosen | NoPlace:
        return place(wanted, self.nodes, self.standing, self.operator, self.name, leaving=leaving, bounds=self.bounds)

    def add(self, wanted: Want) -> Chosen | NoPlace:
        answer = self.look(wanted)
        if isinstance(answer, Chosen):
            self.stand(wanted, answer)
        return answer

    def stand(self, wanted: Want, answer: Chosen) -> Standing:
        placement = Placement(
            self.name("p"), wanted.resident.tenant_id, wanted.model_id, 1, answer.node, answer.partition,
            answer.worker_id, wanted.memory_bytes, 1,
        )  # fmt: skip
        standing = Standing(placement, wanted.resident, work=wanted.work)
        self.standing.append(standing)
        return standing

    def must(self, wanted: Want) -> Chosen:
        answer = self.add(wanted)
        assert isinstance(answer, Chosen), answer
        return answer

    def device(self, model: str) -> str:
        (one,) = [s.placement.partition.device_id for s in self.standing if s.placement.model_id == model]
        return one
