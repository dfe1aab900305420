"""A few of many, evenly and without chance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Ring:
    """Samples that go round a sequence: cheap, even, and the same on every run."""

    __slots__ = ("_turn",)

    def __init__(self) -> None:
        self._turn = 0

    def sample(self, held: Sequence[T], size: int) -> Sequence[T]:
        """The next `size` elements of the ring; all, in order, when there are no more than that."""
        if len(held) <= size:
            return held
        self._turn += size
        at = self._turn % len(held)
        chosen = held[at : at + size]
        return chosen if len(chosen) == size else [*chosen, *held[: size - len(chosen)]]
