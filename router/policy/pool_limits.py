"""What the pool may do, and who carries it out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


class Actuator(Protocol):
    """Who carries decisions out: the agents, or simulated devices."""

    def start(self, device: int, model: int, requests: Sequence[int]) -> None: ...

    def load(self, device: int, model: int, victims: Sequence[int]) -> None: ...

    def refuse(self, request: int) -> None: ...


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """Limits of the pool's choices.

    `scan` devices are looked at for a swap, and as many replicas for a place in a batch or ahead of others. A swap is
    preferred to waiting for a replica when that wait is longer than the load by `patience` service times and, where
    waiting would meet the deadline too, when the victims are worth at most `swap_gain` times what the replica saves.
    A model's share is an equal part of the devices, or what the plan expects of it if that is more. For `contested_s`
    after a model within its share was refused, models that took more than theirs (mean over `fairness_s`) may use
    only `patience_over_share` of their slack, which leaves the front of the queues to the others.
    `rebind`: a promise that has not begun may change its device.
    `upper` is predicted over mean service time: admission promises by the upper bound.
    """

    batching: bool = True
    swap: bool = True
    scan: int = 24
    anticipate: bool = True
    rebind: bool = True
    patience: float = 0.5
    swap_gain: float = 3.0
    upper: float = 1.0
    fairness_s: float = 30.0
    contested_s: float = 1.0
    patience_over_share: float = 0.25
