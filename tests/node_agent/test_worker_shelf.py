"""What a worker does with a replica that is released: kept with its weights, or unloaded with the reason."""

from __future__ import annotations

import re
from collections.abc import Mapping

import pytest

from isolation.engine import Array, Moved
from node_agent.worker.batch import DeviceLost, Replica
from node_agent.worker.identity import IdentityModel
from node_agent.worker.shelf import MOST_LEFT_BYTES, Shelf
from partywall.domain.fleet import DeviceKind
from partywall.domain.models import Signature


class Fixed:
    """A model that cannot move."""

    signature = Signature(open=True)
    memory_bytes = 7

    def run(self, inputs: Mapping[str, Array], rows: int) -> Mapping[str, Array]:
        return inputs


class Movable(Fixed):
    """Says what it is told to."""

    def __init__(self, moved: Moved | None = None, failure: Exception | None = None) -> None:
        self.moved, self.failure, self.discarded = moved or Moved(100, 0.5, True, 3), failure, False

    def park(self) -> Moved:
        if self.failure is not None:
            raise self.failure
        return self.moved

    def wake(self) -> Moved:
        return self.park()

    def discard(self) -> None:
        self.discarded = True


def replica(model: Fixed | IdentityModel) -> Replica:
    return Replica(model, "m", "1")


def test_what_moved_is_told_and_comes_back() -> None:
    shelf, model = Shelf(DeviceKind.GPU), Movable()
    result = shelf.park(1, replica(model))
    assert (result.kept, result.host_bytes, result.moved_bytes, result.pinned) == (True, 100, 100, True)
    assert (result.seconds, result.device_bytes) == (0.5, 3)
    back, moved = shelf.wake(1)
    assert back.model is model
    assert moved.size_bytes == 100
    assert 1 not in shelf


def test_a_model_that_cannot_move_is_unloaded_on_a_gpu_and_kept_on_a_cpu() -> None:
    result = Shelf(DeviceKind.GPU).park(1, replica(Fixed()))
    assert (result.kept, result.reason) == (False, "Fixed does not move its weights off a device")
    result = Shelf(DeviceKind.CPU).park(1, replica(Fixed()))
    assert (result.kept, result.host_bytes, result.moved_bytes) == (True, 7, 0)


def test_the_identity_engine_holds_nothing_anywhere() -> None:
    shelf = Shelf(DeviceKind.GPU)
    assert shelf.park(1, replica(IdentityModel(5))).kept
    assert shelf.wake(1)[1] == Moved()
    shelf.park(1, replica(IdentityModel(5)))
    shelf.drop(1)
    assert 1 not in shelf


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        (MemoryError("no room for 5 bytes"), r"no host memory for its weights \(no room for 5 bytes\)"),
        (MemoryError(), "no host memory for its weights$"),
        (RuntimeError("strange"), "parking failed: RuntimeError: strange"),
    ],
)
def test_a_model_that_fails_to_park_is_unloaded_with_the_reason(failure: Exception, words: str) -> None:
    result = Shelf(DeviceKind.GPU).park(1, replica(Movable(failure=failure)))
    assert not result.kept
    assert re.search(words, result.reason)


def test_device_memory_that_stays_behind_is_no_parking() -> None:
    model = Movable(Moved(1 << 30, 1.0, True, MOST_LEFT_BYTES + 1))
    result = Shelf(DeviceKind.GPU).park(1, replica(model))
    assert not result.kept
    assert "256 MiB of its device memory stay behind" in result.reason
    assert model.discarded


def test_a_lost_device_is_no_failed_parking() -> None:
    shelf = Shelf(DeviceKind.GPU)
    with pytest.raises(DeviceLost):
        shelf.park(1, replica(Movable(failure=RuntimeError("CUDA error: unspecified launch failure"))))
    model = Movable()
    shelf.park(2, replica(model))
    model.failure = RuntimeError("CUDA error: an illegal memory access was encountered")
    with pytest.raises(DeviceLost):
        shelf.wake(2)


def test_one_that_finds_no_room_stays_and_can_be_dropped() -> None:
    shelf, model = Shelf(DeviceKind.GPU), Movable()
    shelf.park(1, replica(model))
    model.failure = RuntimeError("CUDA out of memory")
    with pytest.raises(RuntimeError, match="out of memory"):
        shelf.wake(1)
    assert 1 in shelf
    shelf.drop(1)
    shelf.drop(1)
    assert model.discarded
    with pytest.raises(KeyError):
        shelf.wake(1)
