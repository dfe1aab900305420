"""The live router's and agent's own objects on simulated devices."""

from __future__ import annotations

import random

import pytest
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st

from loadgen.as_served import AsServed
from loadgen.partywall_policy import PartywallPolicy
from loadgen.simulate import Arrivals, Outcome, outcome
from loadgen.world import WAITING, FleetChange, Hardware, World
from router.policy.catalog import ServedModel, Traffic, batch_times_s


def poisson(rates: list[float], until_s: float, seed: int) -> Arrivals:
    rng, rows = random.Random(seed), []
    for owner, rate in enumerate(rates):
        at = 0.0
        while (at := at + rng.expovariate(rate)) < until_s:
            rows.append((at, owner))
    rows.sort()
    return Arrivals([at for at, _ in rows], [owner for _, owner in rows])


def models(count: int, ms: float = 20.0, scale: float = 6.0) -> list[ServedModel]:
    table = {1: ms, 2: 1.3 * ms, 4: 2.0 * ms}
    return [ServedModel(f"m{i}", 1.0, batch_times_s(ms, table), scale * ms / 1000) for i in range(count)]


def run(
    arrivals: Arrivals,
    served: list[ServedModel],
    policy: object,
    *,
    batching: bool = True,
    changes: tuple[FleetChange, ...] = (),
) -> tuple[Outcome, World]:
    world = World(served, Hardware(2, 4.0), batching=batching, swap=False)
    world.run(arrivals.seconds, arrivals.models, policy, changes)  # type: ignore[arg-type]
    assert world.finish_s.count(WAITING) == 0
    return outcome(world, arrivals), world


@pytest.mark.parametrize("batching", [True, False])
@pytest.mark.parametrize("rate", [8.0, 14.0, 30.0])
def test_admitted_requests_are_in_time_and_not_many_fewer_than_the_pools(rate: float, batching: bool) -> None:
    arrivals, served = poisson([rate] * 4, 60.0, seed=2), models(4)
    traffic = [Traffic(rate)] * 4
    live, world = run(arrivals, served, AsServed(traffic), batching=batching)
    late = sum(finish > due for finish, due in zip(world.finish_s, world.deadline_s, strict=True))
    assert late <= 0.001 * live.requests
    pool, _ = run(arrivals, served, PartywallPolicy(traffic), batching=batching)
    assert live.attainment >= pool.attainment - 0.1
    assert live.attainment >= 0.99 or rate > 10


@pytest.mark.parametrize("rate", [10.0, 20.0, 32.0])
def test_a_flood_moves_nobodys_p95_by_more_than_a_tenth_and_leaves_everybody_a_share(rate: float) -> None:
    """Two devices, batches up to four; a share is one device, 50 single requests a second."""
    served, runs = models(2), {}
    for theirs in (50.0, 500.0):
        arrivals = poisson([rate, theirs], 60.0, seed=3)
        _, world = run(arrivals, served, AsServed([Traffic(rate), Traffic(50.0)]))
        rows = zip(world.finish_s, world.deadline_s, arrivals.seconds, arrivals.models, strict=True)
        mine = [(finish - at, finish <= due) for finish, due, at, owner in rows if owner == 0 and finish >= 0]
        offered = arrivals.models.count(0)
        runs[theirs] = sorted(took for took, _ in mine)[int(0.95 * len(mine))], sum(ok for _, ok in mine) / offered
    (calm_s, calm_kept), (loud_s, loud_kept) = runs.values()
    assert calm_kept >= 0.99
    assert loud_s <= 1.10 * calm_s
    assert loud_kept >= 0.99


def test_the_router_hears_of_a_batchs_end_when_the_answer_comes() -> None:
    """Two requests of 20 ms, due at 60, are done after 40; one of the same tenant that has 30 ms comes at 45."""
    served = [ServedModel("long", 1.0, (0.02,), 0.06), ServedModel("short", 1.0, (0.02,), 0.03)]
    for reply_s, admitted in ((0.0, True), (0.004, True), (0.05, False)):
        world = World(served, Hardware(1, 4.0), batching=False, swap=False)
        world.run([0.0, 0.0, 0.045], [0, 0, 1], AsServed([Traffic(1.0)] * 2, ["acme", "acme"], reply_s=reply_s))
        assert (world.finish_s[2] >= 0) is admitted, reply_s


def test_a_dead_devices_requests_are_routed_again() -> None:
    arrivals, served = poisson([12.0] * 4, 30.0, seed=4), models(4)
    result, _ = run(arrivals, served, AsServed([Traffic(12.0)] * 4), changes=(FleetChange(10.0, 0, up=False),))
    assert 0.4 < result.attainment < 1.0


@examples(8)
@given(st.integers(0, 10**6))
def test_of_what_is_admitted_999_of_1000_are_in_time_whatever_is_offered(seed: int) -> None:
    """Drawn rates up to twice the fleet, objectives, and service times that scatter by up to 5 %."""
    rng = random.Random(seed)
    ms, scale, count = rng.choice([5.0, 20.0]), rng.uniform(4.0, 10.0), rng.randrange(1, 5)
    served = models(count, ms, scale)
    rates = [rng.uniform(0.1, 4.0) * 1000 / ms / count for _ in range(count)]
    arrivals = poisson(rates, 4000 / sum(rates), seed)
    world = World(served, Hardware(2, 4.0), swap=False, seed=seed, noise=rng.choice([0.0, 0.02, 0.05]))
    world.run(arrivals.seconds, arrivals.models, AsServed([Traffic(rate) for rate in rates]))
    admitted = [(f, d) for f, d in zip(world.finish_s, world.deadline_s, strict=True) if f >= 0]
    late = sum(f > d for f, d in admitted)
    assert world.finish_s.count(WAITING) == 0
    assert late <= 0.001 * len(admitted) + 1, f"seed {seed}: {late} of {len(admitted)} late"


@examples(8)
@given(st.integers(0, 10**6))
def test_so_are_999_of_1000_where_a_tenants_requests_pass_each_other(seed: int) -> None:
    """One tenant's models of 2 to 100 ms, up to twice the fleet: urgent ones go before what is due later.

    A batch that scatters upwards ends late where it was to end at the deadline; by so much more is not counted.
    """
    rng = random.Random(seed)
    served, rates = [], []
    count = rng.randrange(2, 5)
    for number in range(count):
        single_s, grow = rng.choice([0.002, 0.005, 0.02, 0.1]), rng.uniform(0.3, 1.0)
        batches_s = tuple(single_s * (1 + grow * more) for more in range(4))
        served.append(ServedModel(f"m{number}", 0.9, batches_s, single_s * rng.uniform(4.0, 20.0)))
        rates.append(rng.uniform(0.1, 4.0) / single_s / count)
    arrivals = poisson(rates, 4000 / sum(rates), seed)
    noise = rng.choice([0.0, 0.02, 0.05])
    world = World(served, Hardware(2, 4.0), swap=False, seed=seed, noise=noise)
    world.run(arrivals.seconds, arrivals.models, AsServed([Traffic(rate) for rate in rates], ["acme"] * count))
    rows = zip(world.finish_s, world.deadline_s, arrivals.models, strict=True)
    admitted = [(finish, due + noise * served[model].service_s[-1]) for finish, due, model in rows if finish >= 0]
    late = sum(finish > due for finish, due in admitted)
    assert world.finish_s.count(WAITING) == 0
    assert late <= 0.001 * len(admitted), f"seed {seed}: {late} of {len(admitted)} late"


def test_a_small_model_does_not_wait_behind_a_queue_of_large_ones() -> None:
    """One device; twenty large requests of another tenant wait when a small one comes."""
    served = [ServedModel("large", 1.0, (0.1,), 9.0), ServedModel("small", 1.0, (0.002,), 0.3)]
    world = World(served, Hardware(1, 4.0), batching=False, swap=False)
    world.run([*([0.0] * 20), 0.05], [*([0] * 20), 1], AsServed([Traffic(1.0)] * 2))
    assert world.finish_s[-1] == pytest.approx(0.102), "only the batch that runs is ahead"
