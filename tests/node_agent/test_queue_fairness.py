"""Fair queueing between tenants on one device, in virtual time."""

from __future__ import annotations

import random

import pytest

from node_agent.fairness import FairClock
from node_agent.queueing import BatchLimits, Queued, WorkQueue

SERVICE_S = 0.01


def device(
    loads: tuple[float, float],
    tenants: tuple[str, str],
    weights: tuple[float, float] = (1.0, 1.0),
    until_s: float = 300.0,
    seed: int = 1,
) -> tuple[list[float], list[float]]:
    """Runs two streams through one device; gives each one's p95 latency (ms) and part of the device."""
    rng = random.Random(seed)
    rows = []
    for who, load in enumerate(loads):
        at = 0.0
        while (at := at + rng.expovariate(load / SERVICE_S)) < until_s:
            rows.append((at, who))
    rows.sort()
    queue = WorkQueue()
    for who in (0, 1):
        queue.add_replica(who, BatchLimits(), tenants[who], weights[who])
        queue.observe(who, 1, SERVICE_S, 0.0)
    latency: list[list[float]] = [[], []]
    free = 0.0

    def serve(now: float) -> float:
        batch, _ = queue.take(now)
        if batch is None:
            return now
        latency[batch.handle] += [now + SERVICE_S - item.arrived_s for item in batch.items]
        queue.observe(batch.handle, batch.rows, SERVICE_S, now + SERVICE_S)
        return now + SERVICE_S

    for number, (at, who) in enumerate(rows):
        while len(queue) and free <= at:
            free = serve(free)
        free = max(free, at)
        queue.put(Queued(number, who, 1, b"", at, at + 0.5, at + 0.5))
    p95 = [1e3 * sorted(held)[int(0.95 * len(held))] for held in latency]
    return p95, [len(held) * SERVICE_S / until_s for held in latency]


def test_ten_times_a_share_moves_the_neighbour_by_at_most_ten_percent() -> None:
    """Both offer their share of one half; then one offers ten times it."""
    calm, _ = device((0.5, 0.5), ("a", "b"))
    loud, parts = device((0.5, 5.0), ("a", "b"))
    assert loud[0] <= 1.10 * calm[0]
    assert parts[0] >= 0.98 * 0.5
    _, parts = device((0.5, 5.0), ("x", "x"))
    assert parts[0] < 0.2, "without tenants there is no wall: the test would see that"


@pytest.mark.parametrize("load", [0.2, 0.3])
def test_a_light_tenant_hardly_notices_a_flood(load: float) -> None:
    calm, _ = device((load, 0.5), ("a", "b"))
    loud, parts = device((load, 5.0), ("a", "b"))
    assert loud[0] <= 1.25 * calm[0]
    assert parts[0] == pytest.approx(load, rel=0.05)


def test_weights_divide_a_saturated_device() -> None:
    _, parts = device((3.0, 3.0), ("a", "b"), weights=(3.0, 1.0), until_s=60.0)
    assert parts[0] / parts[1] == pytest.approx(3.0, rel=0.05)


def test_absence_earns_no_credit() -> None:
    clock = FairClock()
    for _ in range(100):
        clock.charge("busy", 1.0)
    turns = []
    for _ in range(6):
        tenant = clock.first(["busy", "late"])
        assert tenant is not None
        turns.append(tenant)
        clock.charge(tenant, 1.0)
    assert turns.count("busy") >= 2, turns


def test_a_wrong_prediction_is_made_good() -> None:
    clock = FairClock()
    clock.charge("a", 1.0)
    clock.correct("a", 4.0)
    order = []
    for _ in range(5):
        tenant = clock.first(["a", "b"])
        assert tenant is not None
        order.append(tenant)
        clock.charge(tenant, 1.0)
    assert order == ["b"] * 5


def test_a_weight_must_be_above_zero() -> None:
    with pytest.raises(ValueError, match="weight"):
        FairClock().set_weight("a", 0.0)
