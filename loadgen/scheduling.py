"""What the simulated world tells a scheduling policy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from loadgen.hardware import Batch

if TYPE_CHECKING:
    from loadgen.world import World


class SchedulingPolicy(Protocol):
    """What the world tells a policy. Requests are numbers; times are seconds of the virtual clock."""

    def begin(self, world: World) -> None:
        """Cuts devices and places the free first loads (`world.place`)."""
        ...

    def arrived(self, now: float, request: int, model: int, deadline: float) -> None: ...

    def finished(self, now: float, lane: int, model: int, batch: Batch) -> None: ...

    def loaded(self, now: float, device: int, model: int) -> None: ...

    def woken(self, now: float) -> None:
        """A time asked for by `world.wake_at` has come."""
        ...

    def changed(self, now: float, device: int, up: bool, lost: Batch) -> None:
        """A device went away with these requests running on it, or came (back) empty."""
        ...
