"""Promises that change their device: everybody's deadline holds, and more requests are served."""

from __future__ import annotations

import random

import pytest

from loadgen.partywall_policy import PartywallPolicy
from loadgen.world import WAITING, FleetChange, Hardware, World
from router.policy.catalog import ServedModel, Traffic, batch_times_s
from router.policy.pool import PoolLimits
from router.policy.promises import PlannedBatch
from router.policy.rebinding import make_room, pull
from router.policy.schedule import DeviceSchedule

MODELS = [ServedModel(f"m{i}", 1.0, batch_times_s(10.0), 0.02) for i in range(3)]


def devices(*resident: tuple[int, ...]) -> tuple[list[DeviceSchedule], list[list[DeviceSchedule]]]:
    """Schedules with these models on them, and the replicas of each model."""
    found = []
    for number, held in enumerate(resident):
        schedule = DeviceSchedule(number, MODELS, 4.0)
        schedule.ready_s = dict.fromkeys(held, 0.0)
        found.append(schedule)
    return found, [[s for s in found if model in s.ready_s] for model in range(len(MODELS))]


def state(schedule: DeviceSchedule) -> tuple[list[list[int]], float, list[float], dict[int, int]]:
    pins = {model: count for model, count in schedule.pins.items() if count}
    return [b.requests for b in schedule.queue], schedule.tail_s, [b.end_s for b in schedule.queue], pins


def test_a_waiting_batch_makes_room_on_another_of_its_replicas() -> None:
    (first, second), replicas = devices((0, 1), (1, 2))
    first.append(0.0, 1, 1, deadline_s=0.02, service_s=0.01)
    first.append(0.0, 1, 2, deadline_s=0.02, service_s=0.01)
    asked = PlannedBatch(0, 3, 0.02, 0.01, 0.0)
    assert make_room(0.0, asked, replicas[0], replicas) == (first, second)
    assert state(first) == ([[2], [3]], pytest.approx(0.02), [pytest.approx(0.01), pytest.approx(0.02)], {0: 1, 1: 1})
    assert state(second) == ([[1]], pytest.approx(0.01), [pytest.approx(0.01)], {1: 1})


def test_what_cannot_be_moved_stays_as_it_was() -> None:
    (first, second), replicas = devices((0, 1), (1, 2))
    first.append(0.0, 1, 1, deadline_s=0.02, service_s=0.01)
    first.append(0.0, 1, 2, deadline_s=0.02, service_s=0.01)
    second.append(0.0, 2, 4, deadline_s=0.02, service_s=0.01)
    second.append(0.0, 2, 5, deadline_s=0.02, service_s=0.01)
    before = state(first), state(second)
    assert make_room(0.0, PlannedBatch(0, 3, 0.02, 0.01, 0.0), replicas[0], replicas) is None
    assert (state(first), state(second)) == before


def test_weights_that_still_come_are_waited_for() -> None:
    (first, second), replicas = devices((0, 1), (1, 2))
    second.ready_s[1] = 0.015
    first.append(0.0, 1, 1, deadline_s=0.02, service_s=0.01)
    first.append(0.0, 1, 2, deadline_s=0.02, service_s=0.01)
    assert make_room(0.0, PlannedBatch(0, 3, 0.02, 0.01, 0.0), replicas[0], replicas) is None
    assert pull(0.0, second, [first, second]) is None


def test_a_device_without_work_relieves_the_busiest() -> None:
    (first, second, third), _ = devices((0, 1), (1, 2), (1,))
    first.append(0.0, 0, 1, deadline_s=1.0, service_s=0.01)
    first.append(0.0, 1, 2, deadline_s=1.0, service_s=0.01)
    second.append(0.0, 2, 3, deadline_s=1.0, service_s=0.01)
    assert pull(0.0, third, [first, second, third]) is first
    assert [b.requests for b in third.queue] == [[2]]
    assert [b.requests for b in first.queue] == [[1]]
    assert pull(0.0, third, [second, third]) is None  # nothing of its models waits there


def test_nothing_is_pulled_that_would_not_end_earlier() -> None:
    (first, second), _ = devices((1,), (1,))
    first.append(0.0, 1, 1, deadline_s=1.0, service_s=0.01)
    assert pull(0.0, second, [first, second]) is None  # it begins at once where it is


@pytest.mark.parametrize("swap", [False, True])
def test_rebinding_serves_more_and_nobody_late(swap: bool) -> None:
    """Ten models of mixed length on four devices, bursts, one device failing and coming back."""
    rng = random.Random(5)
    latencies_ms = [20, 40, 80, 120, 200] * 2
    models = [ServedModel(f"m{i}", 1.5, batch_times_s(ms), 0.003 * ms) for i, ms in enumerate(latencies_ms)]
    traffic = [Traffic(0.25 / m.service_s[0], 3.0) for m in models]
    rows = []
    for owner, held in enumerate(traffic):
        at, shape = 0.0, 1 / held.cv**2
        while (at := at + rng.gammavariate(shape, 1 / (shape * held.rate_per_s))) < 120.0:
            rows.append((at, owner))
    rows.sort()
    served = {}
    changes = (FleetChange(50.0, 1, up=False), FleetChange(60.0, 1, up=True))
    for rebind in (False, True):
        world = World(models, Hardware(4, 6.5), batching=False, swap=swap)
        limits = PoolLimits(batching=False, swap=swap, rebind=rebind)
        world.run([t for t, _ in rows], [m for _, m in rows], PartywallPolicy(traffic, limits), changes)
        assert world.finish_s.count(WAITING) == 0
        assert not any(f > d for f, d in zip(world.finish_s, world.deadline_s, strict=True))
        served[rebind] = sum(f >= 0 for f in world.finish_s)
    assert served[True] > served[False]
