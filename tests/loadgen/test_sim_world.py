"""The simulated world's rules, one by one, and figures against queueing theory."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from loadgen.simulate import Arrivals, PolicyName, outcome, simulate
from loadgen.world import Batch, FleetChange, Hardware, World
from partywall.errors import InternalError, InvalidInput
from router.policy.catalog import ServedModel, batch_times_s


def model(name: str = "m", gb: float = 2.0, ms: float = 100.0, scale: float = 2.0) -> ServedModel:
    return ServedModel(name, gb, batch_times_s(ms), scale * ms / 1000)


class Scripted:
    """A policy that does what a test says."""

    def __init__(self, begin: Callable[[World], None], arrived: Callable[[World, int, int], None]) -> None:
        self._begin, self._arrived = begin, arrived
        self.log: list[tuple[str, float]] = []

    def begin(self, world: World) -> None:
        self.world = world
        self._begin(world)

    def arrived(self, now: float, request: int, model: int, deadline: float) -> None:
        self._arrived(self.world, request, model)

    def finished(self, now: float, lane: int, model: int, batch: Batch) -> None:
        self.log.append(("finished", now))

    def loaded(self, now: float, device: int, model: int) -> None:
        self.log.append(("loaded", now))

    def woken(self, now: float) -> None: ...

    def changed(self, now: float, device: int, up: bool, lost: Batch) -> None: ...


def broken(world: World, act: Callable[[World], object]) -> None:
    def arrived(w: World, request: int, model: int) -> None:
        act(w)

    with pytest.raises(InternalError):
        world.run([0.0], [0], Scripted(lambda w: w.place(0, 0), arrived))


@pytest.mark.parametrize(
    "act",
    [
        lambda w: w.start(0, 1, (0,)),  # not resident
        lambda w: w.load(0, 1),  # no memory
        lambda w: w.load(0, 0),  # already there
        lambda w: (w.start(0, 0, (0,)), w.start(0, 0, (0,))),  # busy
        lambda w: (w.start(0, 0, (0,)), w.evict(0, 0)),  # running
        lambda w: (w.refuse(0), w.refuse(0)),  # answered
        lambda w: w.place(1, 1),  # first plan only
        lambda w: (w.load(1, 0), w.load(1, 1)),  # one copy engine
    ],
)
def test_breaking_a_rule_ends_the_run(act: Callable[[World], object]) -> None:
    broken(World([model("a"), model("b")], Hardware(2, 3.0)), act)


def test_switches_are_rules_too() -> None:
    broken(World([model(), model("b")], Hardware(2, 9.0), swap=False), lambda w: w.load(1, 0))
    world = World([model()], Hardware(1, 9.0), batching=False)
    with pytest.raises(InternalError):
        world.run([0.0, 0.0], [0, 0], Scripted(lambda w: w.place(0, 0), lambda w, r, m: r and w.start(0, 0, (0, 1))))


def test_a_load_takes_weights_over_rate_beside_computing() -> None:
    def arrived(world: World, request: int, model: int) -> None:
        world.start(0, 0, (request,))
        world.load(0, 1)

    policy = Scripted(lambda w: w.place(0, 0), arrived)
    world = World([model("a"), model("b", gb=2.0)], Hardware(1, 4.0, load_gb_per_s=25.0))
    world.run([1.0], [0], policy)
    assert policy.log == [("loaded", pytest.approx(1.08)), ("finished", pytest.approx(1.1))]
    assert world.busy_s == pytest.approx(0.18)


def test_a_preempted_batch_comes_back_and_its_time_counts() -> None:
    world = World([model()], Hardware(1, 4.0))

    def arrived(w: World, request: int, model: int) -> None:
        if request == 0:
            w.start(0, 0, (0,))
        else:
            assert w.preempt(0) == (0,)
            w.start(0, 0, (0, 1))

    world.run([0.0, 0.05], [0, 0], Scripted(lambda w: w.place(0, 0), arrived))
    assert world.finish_s == [pytest.approx(0.25), pytest.approx(0.25)]
    assert world.busy_s == pytest.approx(0.25)


def test_figures_of_an_outcome() -> None:
    arrivals = Arrivals([0.0, 0.0, 0.0, 10.0], [0, 0, 0, 0])
    result = simulate(arrivals, [model()], Hardware(1, 4.0), PolicyName.PARTYWALL)
    assert (result.requests, result.refused, result.attainment) == (4, 1, 0.75)
    assert result.goodput == pytest.approx(0.3)
    assert result.p99_ms == pytest.approx(200.0)
    assert result.gpu_seconds == pytest.approx(0.3)


@pytest.mark.parametrize("load", [0.3, 0.7])
def test_mean_wait_is_that_of_an_md1_queue(load: float) -> None:
    seed = 11
    rng = random.Random(seed)
    at, seconds = 0.0, []
    for _ in range(40_000):
        at += rng.expovariate(load / 0.1)
        seconds.append(at)
    world = World([model(scale=1000.0)], Hardware(1, 4.0), batching=False)
    from loadgen.baselines.round_robin import RoundRobin

    world.run(seconds, [0] * len(seconds), RoundRobin())
    waits = [finish - start - 0.1 for finish, start in zip(world.finish_s, seconds, strict=True)]
    expected = load * 0.1 / (2 * (1 - load))  # Pollaczek-Khinchine, constant service
    assert sum(waits) / len(waits) == pytest.approx(expected, rel=0.1), f"seed {seed}"
    assert outcome(world, Arrivals(seconds, [0] * len(seconds))).refused == 0


def grid(seed: int, models: int = 8, cv: float = 2.0, rate: float = 2.0, until: float = 60.0) -> Arrivals:
    rng, rows = random.Random(seed), []
    shape = 1 / cv**2
    for owner in range(models):
        at = rng.random()
        while at < until:
            rows.append((at, owner))
            at += rng.gammavariate(shape, 1 / (shape * rate))
    rows.sort()
    return Arrivals([at for at, _ in rows], [owner for _, owner in rows])


@pytest.mark.parametrize("policy", list(PolicyName))
def test_every_policy_plays_by_the_rules_and_repeats(policy: PolicyName) -> None:
    arrivals, models = grid(5), [model(f"m{i}") for i in range(8)]
    runs = [simulate(arrivals, models, Hardware(4, 4.5), policy, seed=3) for _ in range(2)]
    assert runs[0] == runs[1]
    assert runs[0].requests == len(arrivals.seconds)
    assert 0.05 < runs[0].attainment <= 1.0
    assert simulate(arrivals, models, Hardware(4, 4.5), policy, swap=False, batching=False).attainment > 0.05


def test_ours_is_the_best_of_the_policies_here() -> None:
    arrivals, models = grid(7, cv=3.0), [model(f"m{i}") for i in range(8)]
    got = {p: simulate(arrivals, models, Hardware(4, 4.5), p, batching=False).attainment for p in PolicyName}
    assert max(got, key=lambda p: got[p]) is PolicyName.PARTYWALL, got


def test_a_failed_devices_requests_are_offered_again() -> None:
    arrivals, models = grid(9), [model(f"m{i}", scale=5.0) for i in range(8)]
    changes = [FleetChange(20.0, 1, up=False), FleetChange(40.0, 1, up=True)]
    whole = simulate(arrivals, models, Hardware(4, 4.5), PolicyName.PARTYWALL)
    hurt = simulate(arrivals, models, Hardware(4, 4.5), PolicyName.PARTYWALL, changes=changes)
    assert hurt.requests == whole.requests
    assert whole.attainment - 0.25 < hurt.attainment < whole.attainment


@pytest.mark.parametrize("field", ["devices", "memory_gb", "load_gb_per_s"])
def test_hardware_must_be_positive(field: str) -> None:
    values = {"devices": 1, "memory_gb": 1.0, "load_gb_per_s": 1.0, field: 0}
    with pytest.raises(InvalidInput, match=field):
        Hardware(**values)  # type: ignore[arg-type]


def test_a_batch_behind_idle_time_takes_longer_and_one_behind_another_does_not() -> None:
    waiting: list[int] = []

    def arrived(world: World, request: int, model: int) -> None:
        waiting.append(request)
        if len(waiting) == 1:
            world.start(0, 0, (request,))

    class Next(Scripted):
        def finished(self, now: float, lane: int, model: int, batch: Batch) -> None:
            waiting.remove(batch[0])
            if waiting:
                self.world.start(0, 0, (waiting[0],))

    world = World([model()], Hardware(1, 4.0), wake_s=0.01)
    # The first finds the device idle, the second waits for it, the third comes long after.
    world.run([0.0, 0.05, 1.0], [0, 0, 0], Next(lambda w: w.place(0, 0), arrived))
    assert world.finish_s == pytest.approx([0.11, 0.21, 1.11])
