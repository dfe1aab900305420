"""Traffic that moves from one replica to the one that replaces it. Pure: time and observations in, weights out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

R = TypeVar("R")

COLD_STEPS = (0.1, 0.25, 0.5, 1.0)
"""Shares of the traffic, one after another: the new replica's caches warm up on few requests."""
AT_ONCE = (1.0,)


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast traffic moves.

    Attributes:
        steps: Weights of the new replica, ending with 1.0.
        step_s: How long each is held.
        settle_s: How long the old replica stands without traffic before it is drained; more than the time in which
            every router learns of a weight.
    """

    steps: tuple[float, ...] = COLD_STEPS
    step_s: float = 0.5
    settle_s: float = 1.0

    def next_weight(self, weight: float, held_s: float) -> float:
        """The weight after one that has been held so long; 0.0 is left at once."""
        if weight > 0.0 and held_s < self.step_s:
            return weight
        return next((step for step in self.steps if step > weight), 1.0)


@dataclass(slots=True)
class Shift(Generic[R]):
    """One pair that shares its traffic by weight, in a fixed rhythm: of 100 turns, 100 x `weight` are the new one's."""

    old: R
    new: R
    weight: float
    credit: float = 0.5

    def pass_over(self) -> R:
        """Takes one turn; answers the replica that sits it out."""
        self.credit += self.weight
        if self.credit >= 1.0:
            self.credit -= 1.0
            return self.old
        return self.new
