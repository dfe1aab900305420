"""Which weights stay on the devices: what a replica is worth now, who leaves for whom.

A replica's worth is the requests a second it is expected to save. A cluster of arrivals goes on while gaps are shorter
than the service time, with chance p, so its mean size is C = 1 / (1 - p); one begins or goes on at the hazard of the
gaps (`renewal`). With k requests cleared by a replica within the objective, the r-th replica saves of each cluster
C p^(k (r-1)) (1 - p^k). What a swap on demand would still clear is no loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from router.policy.catalog import ServedModel, Traffic
from router.policy.renewal import GapHazard, gap_within
from router.policy.schedule import DeviceSchedule

HORIZON_S = 1.0
"""How far ahead a replica's use is judged: about the time in which several loads can be done."""
REFRESH_S = 0.02
"""How long a hazard is taken as unchanged while no request arrives."""
ADVANTAGE = 1.5
"""A load ahead of need must promise this many times what its victims lose (hysteresis against to and fro)."""


@dataclass(frozen=True, slots=True)
class _Shape:
    """Per model: cluster size, the part of a cluster left after each replica, the part a swap does not save."""

    cluster: float
    left: float
    unsaved: float
    reachable: bool


def _shape(model: ServedModel, traffic: Traffic, load_s: float) -> _Shape:
    service = model.service_s[0]
    goes_on = min(0.999, gap_within(traffic.rate_per_s, traffic.cv, service))
    clears = max(1.0, model.objective_s // service)
    after_swap = max(0.0, (model.objective_s - load_s + 1e-9) // service)
    return _Shape(1 / (1 - goes_on), goes_on**clears, 1 - min(1.0, after_swap / clears) * SWAP_SAVES, after_swap >= 1)


SWAP_SAVES = 0.9
"""A swap on demand may find the copy engine or the memory taken; this part of its saving is counted."""


class Residency:
    """Values replicas; the least valuable leaves first."""

    def __init__(
        self,
        models: Sequence[ServedModel],
        traffic: Sequence[Traffic],
        load_s: Sequence[float],
        replicas: Sequence[Sequence[DeviceSchedule]],
    ) -> None:
        self._models = models
        self._replicas = replicas
        self._shapes = [_shape(m, t, s) for m, t, s in zip(models, traffic, load_s, strict=True)]
        self._hazards = [GapHazard(t.rate_per_s, t.cv, HORIZON_S) for t in traffic]
        self.seen_s = [0.0] * len(models)
        self._known = [(-1.0, 0.0)] * len(models)

    def reachable(self, model: int) -> bool:
        """Whether a swap on an idle device meets the model's objective."""
        return self._shapes[model].reachable

    def worth(self, now: float, model: int, replica: int) -> float:
        """Requests a second that the `replica`-th replica (1, 2, ...) saves in the near future."""
        shape = self._shapes[model]
        known_s, rate = self._known[model]
        if not 0 <= now - known_s < REFRESH_S or known_s < self.seen_s[model]:
            rate = self._hazards[model].near_rate_per_s(now - self.seen_s[model])
            self._known[model] = (now, rate)
        return float(rate * shape.cluster * shape.left ** (replica - 1) * (1 - shape.left) * shape.unsaved)

    def gain(self, now: float, model: int) -> float:
        """What one more replica would save."""
        return self.worth(now, model, len(self._replicas[model]) + 1)

    def victims(self, now: float, schedule: DeviceSchedule, model: int) -> tuple[Sequence[int], float] | None:
        """Who leaves so that `model` fits and what that loses; None: it cannot be made to fit."""
        need = self._models[model].weights_gb - schedule.free_gb - 1e-9
        if need <= 0:
            return (), 0.0
        arriving = [load.model for load in schedule.loads]
        priced = []
        for held in schedule.ready_s:
            if held not in arriving:
                worth = self.worth(now, held, len(self._replicas[held]))
                weights = self._models[held].weights_gb
                pinned = 1e6 if schedule.pins.get(held) else 0.0
                priced.append(((pinned + worth) / max(weights, 1e-6), held, worth))
        priced.sort()
        chosen: list[int] = []
        cost = 0.0
        for _, held, worth in priced:
            chosen.append(held)
            cost += worth
            need -= self._models[held].weights_gb
            if need <= 0:
                return self._without_excess(chosen, need, cost, now)
        return None

    def _without_excess(
        self, chosen: list[int], excess_gb: float, cost: float, now: float
    ) -> tuple[Sequence[int], float]:
        """Spares victims that the last one made unnecessary."""
        for held in chosen[:-1]:
            if self._models[held].weights_gb <= -excess_gb:
                chosen.remove(held)
                excess_gb += self._models[held].weights_gb
                cost -= self.worth(now, held, len(self._replicas[held]))
        return chosen, cost

    def worth_loading(self, now: float, schedule: DeviceSchedule, model: int) -> tuple[float, Sequence[int]] | None:
        """Gain and victims of a load ahead of need; None: not now, or not worth it."""
        if schedule.loads or model in schedule.ready_s or schedule.pins.get(model):
            return None
        choice = self.victims(now, schedule, model)
        if choice is None or any(schedule.pins.get(victim) for victim in choice[0]):
            return None
        gain = self.worth(now, model, len(self._replicas[model]) + 1)
        return (gain - choice[1], choice[0]) if gain > ADVANTAGE * choice[1] else None
