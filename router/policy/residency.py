"""Which weights stay on the devices: what a replica is worth now, who leaves for whom."""

from __future__ import annotations

import math
from collections.abc import Sequence

from router.policy.catalog import ServedModel, Traffic
from router.policy.schedule import DeviceSchedule

RECENT_S = 1.0
"""Time constant of the recent arrival rate."""


class Residency:
    """Values replicas by the arrivals they are expected to see; the least valuable leaves first."""

    def __init__(
        self, models: Sequence[ServedModel], traffic: Sequence[Traffic], replicas: Sequence[Sequence[DeviceSchedule]]
    ) -> None:
        self._models = models
        self._rate = [t.rate_per_s for t in traffic]
        self._replicas = replicas
        self._recent = [0.0] * len(models)
        self._seen_s = [0.0] * len(models)

    def saw(self, now: float, model: int) -> None:
        """Takes note of an arrival."""
        self._recent[model] = self._recent[model] * math.exp((self._seen_s[model] - now) / RECENT_S) + 1 / RECENT_S
        self._seen_s[model] = now

    def intensity(self, now: float, model: int) -> float:
        """Expected arrivals a second in the near future."""
        recent = self._recent[model] * math.exp((self._seen_s[model] - now) / RECENT_S)
        return 0.5 * (recent + self._rate[model])

    def victims(self, now: float, schedule: DeviceSchedule, model: int) -> tuple[Sequence[int], float] | None:
        """Who leaves so that `model` fits and what that costs; None: it cannot be made to fit."""
        need = self._models[model].weights_gb - schedule.free_gb - 1e-9
        if need <= 0:
            return (), 0.0
        arriving = {load.model for load in schedule.loads}
        priced = sorted(
            (self._worth(now, held, schedule), held) for held in schedule.ready_s if held not in arriving
        )
        chosen: list[int] = []
        cost = 0.0
        for worth, held in priced:
            chosen.append(held)
            cost += worth
            need -= self._models[held].weights_gb
            if need <= 0:
                return chosen, cost
        return None

    def _worth(self, now: float, model: int, schedule: DeviceSchedule) -> float:
        replicas = len(self._replicas[model])
        return self.intensity(now, model) * self._models[model].weights_gb / (replicas * replicas) + 10 * schedule.pins.get(model, 0)

    def wanted(self, now: float, schedule: DeviceSchedule) -> tuple[int, Sequence[int]] | None:
        best = None
        for model in range(len(self._models)):
            if self._replicas[model] or schedule.pins.get(model):
                continue
            value = self.intensity(now, model)
            if best is None or value > best[0]:
                best = (value, model)
        if best is None:
            return None
        choice = self.victims(now, schedule, best[1])
        if choice is None or any(schedule.pins.get(v) for v in choice[0]):
            return None
        loss = choice[1]
        if MODE == 1 and any(len(self._replicas[v]) < 2 for v in choice[0]):
            return None
        if MODE == 2 and loss * HYST > best[0] * self._models[best[1]].weights_gb:
            return None
        return best[1], choice[0]
MODE, HYST = 1, 2.0
