"""Batches that slow each other on one simulated device, from moment to moment."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from loadgen.as_served import AsServed, LanePlacement
from loadgen.world import Batch, FleetChange, Hardware, World
from partywall.errors import InternalError
from router.policy.catalog import ServedModel, Traffic


class Twice:
    """Alone a batch takes 100 ms at any share; beside others twice as long."""

    def service_s(self, model: int, share: float, size: int) -> float:
        return 0.1 * size

    def slowdowns(self, running: Sequence[tuple[int, float]]) -> Sequence[float]:
        return [1.0 if len(running) == 1 else 2.0] * len(running)


MODELS = [ServedModel(f"m{i}", 1.0, (0.1,), 1.0) for i in range(2)]


class Lanes:
    """Starts request r in lane r."""

    def __init__(self, shares: Sequence[float], *, capped: bool = True) -> None:
        self._shares, self._capped = shares, capped
        self.promised: list[float] = []

    def begin(self, world: World) -> None:
        self.world = world
        for model in range(2):
            world.place(0, model)
        self.lanes = world.cut(0, self._shares, capped=self._capped)

    def arrived(self, now: float, request: int, model: int, deadline: float) -> None:
        self.promised.append(self.world.start(self.lanes[request], model, (request,)))

    def finished(self, now: float, lane: int, model: int, batch: Batch) -> None: ...

    def loaded(self, now: float, device: int, model: int) -> None: ...

    def woken(self, now: float) -> None: ...

    def changed(self, now: float, device: int, up: bool, lost: Batch) -> None:
        for request in lost:
            self.world.refuse(request)


def world() -> World:
    return World(MODELS, Hardware(1, 4.0), batching=False, swap=False, pace=Twice())


def test_a_batch_is_slow_while_somebody_is_beside_it_and_only_then() -> None:
    held, policy = world(), Lanes((0.5, 0.5))
    held.run([0.0, 0.06], [0, 1], policy)
    # 60 ms alone, then 40 ms of work take 80; the other has done 40 of 100 by then and goes on alone.
    assert held.finish_s == [pytest.approx(0.14), pytest.approx(0.2)]
    assert policy.promised == [pytest.approx(0.1), pytest.approx(0.26)]


def test_a_lost_neighbour_slows_no_more() -> None:
    held = world()
    held.run([0.0, 0.0], [0, 1], Lanes((0.5, 0.5)), [FleetChange(0.05, 0, up=False)])
    assert held.finish_s == [-1.0, -1.0]


def test_more_than_a_device_needs_a_pace_that_says_what_that_means() -> None:
    held = world()
    held.run([0.0], [0], Lanes((1.0, 1.0), capped=False))
    assert held.finish_s == [pytest.approx(0.1)]
    with pytest.raises(InternalError, match="shares"):
        world().cut(0, (1.0, 1.0))
    with pytest.raises(InternalError, match="shares"):
        World(MODELS, Hardware(1, 4.0)).cut(0, (1.0, 1.0), capped=False)


def test_the_live_objects_serve_partitions_and_learn_their_neighbours() -> None:
    """Both partitions are busy all the time: a promise of 100 ms would be wrong, and is soon not made any more."""
    placed = [LanePlacement(0, 0.5, (m,), lambda model, size: 0.1 * size) for m in range(2)]
    held = world()
    seconds = sorted([0.18 * i for i in range(60)] * 2)
    held.run(seconds, [0, 1] * 60, AsServed([Traffic(5.0)] * 2, placement=placed))
    served = [finish for finish in held.finish_s if finish >= 0]
    assert len(served) >= 110
    assert all(finish <= due for finish, due in zip(held.finish_s, held.deadline_s, strict=True))
