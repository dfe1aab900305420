"""Fair queueing between tenants on one device, in virtual time."""

from __future__ import annotations

import math
import random

import pytest

from node_agent.fairness import FairClock, ShareAccount, ShareLimits
from node_agent.queueing import BatchLimits, Queued, WorkQueue

SERVICE_S = 0.01


def batch_s(rows: int) -> float:
    """A further row costs six tenths of the first."""
    return SERVICE_S * (1 + 0.6 * (rows - 1))


def device(
    loads: tuple[float, float],
    tenants: tuple[str, str],
    weights: tuple[float, float] = (1.0, 1.0),
    until_s: float = 150.0,
    seed: int = 1,
    max_rows: int = 1,
) -> tuple[list[float], list[float]]:
    """Runs two streams through one device; gives each one's p95 latency (ms) and the part that it was served.

    Loads and parts are in single requests' device time.
    """
    rng = random.Random(seed)
    rows = []
    for who, load in enumerate(loads):
        at = 0.0
        while (at := at + rng.expovariate(load / SERVICE_S)) < until_s:
            rows.append((at, who))
    rows.sort()
    queue = WorkQueue()
    for who in (0, 1):
        queue.add_replica(who, BatchLimits(max_rows), tenants[who], weights[who])
        for size in range(1, max_rows + 1):
            queue.observe(who, size, batch_s(size), 0.0)
    latency: list[list[float]] = [[], []]
    free = 0.0

    def serve(now: float) -> float:
        batch, _ = queue.take(now)
        if batch is None:
            return now
        end = now + batch_s(batch.rows)
        latency[batch.handle] += [end - item.arrived_s for item in batch.items]
        queue.observe(batch.handle, batch.rows, end - now, end)
        return end

    for number, (at, who) in enumerate(rows):
        while len(queue) and free <= at:
            free = serve(free)
        free = max(free, at)
        queue.put(Queued(number, who, 1, b"", at, at + 0.5, at + 0.5))
    p95 = [1e3 * sorted(held)[int(0.95 * len(held))] for held in latency]
    return p95, [len(held) * SERVICE_S / until_s for held in latency]


MIXES = ((0.5, 0.5), (0.4, 0.5), (0.4, 0.4), (0.3, 0.5), (0.2, 0.5), (0.1, 0.5))


@pytest.mark.parametrize("max_rows", [1, 8])
@pytest.mark.parametrize("mix", MIXES)
def test_ten_times_a_share_moves_the_neighbour_by_at_most_ten_percent(mix: tuple[float, float], max_rows: int) -> None:
    """Both offer what they may; then one offers ten times as much."""
    mine, theirs = mix
    calm, _ = device((mine, theirs), ("a", "b"), max_rows=max_rows)
    loud, parts = device((mine, 10 * theirs), ("a", "b"), max_rows=max_rows)
    assert loud[0] <= 1.10 * calm[0], f"p95 {calm[0]:.1f} -> {loud[0]:.1f} ms"
    assert parts[0] >= 0.97 * mine
    assert parts[1] >= 0.97 * min(theirs, 1 - mine), "the loud one has its own share too"


def test_without_tenants_there_is_no_wall() -> None:
    """The test above would see it."""
    _, parts = device((0.5, 5.0), ("x", "x"))
    assert parts[0] < 0.2


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


def test_absence_earns_one_burst_at_the_most() -> None:
    """Somebody comes back after ten minutes and floods a device that another had to itself."""
    limits = ShareLimits()
    account = ShareAccount(limits)
    for tenant in ("busy", "back"):
        account.set_weight(tenant, 1.0)
    now = 0.0
    while now < 600.0:
        account.advance(now, ["busy"])
        account.spend("busy", SERVICE_S)
        now += SERVICE_S
    assert list(account.first_in_line({"busy": 0, "back": 0})) == ["back"]
    ahead = 0
    while list(account.first_in_line(["busy", "back"])) == ["back"]:
        account.spend("back", SERVICE_S)
        now += SERVICE_S
        account.advance(now, ["busy", "back"])
        ahead += 1
    assert ahead * SERVICE_S <= 2 * limits.burst_s + 2 * SERVICE_S, "credit grows at half speed while it is spent"


def test_long_batches_of_who_is_over_are_cut_only_beside_others() -> None:
    account = ShareAccount()
    account.set_weight("loud", 1.0)
    account.set_weight("quiet", 1.0)
    account.advance(0.0, ["loud"])
    account.spend("loud", 5.0)
    single_s = {"loud": 0.01, "quiet": 0.02}
    assert account.longest_batch_s("loud", single_s) == math.inf, "nobody else was here"
    account.spend("quiet", 0.1)
    assert account.longest_batch_s("loud", single_s) == 0.02
    assert account.longest_batch_s("quiet", single_s) == math.inf


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
