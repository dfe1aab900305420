"""The interference model at work in the router: placement by profiles and live traffic, and who reads which names."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fleet_world import FleetWorld
from sharing_world import Table, gpu

from partywall.clock import VirtualClock
from partywall.domain.fleet import Device, DeviceKind, Partition, PartitionKind
from partywall.domain.placements import Placement
from partywall.domain.profiles import ProbePoint, ProbeSetting, Profile, Resource, device_type
from router.control.explain import all_decisions, decision_of, decisions_of
from router.control.neighbourhood import Neighbourhood
from router.gateway.correction import Corrections
from router.gateway.replicas import Replica
from router.policy.neighbour_costs import Occupant
from router.policy.sharing_words import Work

CPU = Device("cpu", DeviceKind.CPU, "CPU", 1 << 33, 2, (0, 1))
AT = ProbePoint(ProbeSetting(Resource.LLC), 50, 50)
KIND = PartitionKind.CPUSET


def profile_of(name: str) -> Profile:
    return Profile(
        name, "CPU x2", {50: 10.0}, {50: 10.0}, {AT: 1.3}, {AT: 2.0},
        solo_at_ms={(1, 50): 10.0, (4, 50): 22.0}, probe_self={AT: 2.0},
    )  # fmt: skip


class Book:
    def __init__(self, *names: str) -> None:
        self.known = {name: profile_of(name) for name in names}

    @property
    def any_probed(self) -> bool:
        return bool(self.known)

    def profile(self, model_id: str, version: int, device_type: str) -> Profile | None:
        return self.known.get(model_id)


class Pair:
    """Two replicas on a CPU, each on a core."""

    def __init__(self, *profiled: str) -> None:
        self.clock, self.book = VirtualClock(), Book(*profiled)
        self.replicas = {name: self.replica(name, core) for core, name in enumerate(("a", "b"))}
        self.corrections = Corrections(lambda: self.replicas.values(), lambda node: (CPU,), self.book, device_type)
        self.known = Neighbourhood(self.book, self.corrections, self.clock)

    @staticmethod
    def replica(name: str, core: int) -> Replica:
        partition = Partition(f"p-{name}", KIND, "cpu", (core,), 50)
        return Replica(Placement(f"place-{name}", name, name, 1, "n1", partition, name, 0, 1), core + 1)

    def run(self, periods: int, a: tuple[int, int, float], b: tuple[int, int, float]) -> None:
        """Per period of 2 s, each one's batches: how many, of how many rows, seconds of each."""
        for _ in range(periods):
            for name, (count, rows, seconds) in (("a", a), ("b", b)):
                for _ in range(count):
                    self.replicas[name].window.add(rows, seconds)
            self.clock.advance(2.0)
            self.corrections.tick(self.clock.monotonic())


@pytest.fixture
def pair() -> Pair:
    return Pair("a", "b")


def test_a_replica_is_taken_as_busy_until_it_was_seen_not_to_be(pair: Pair) -> None:
    assert pair.known.work("place-a", 50) == Work(0.05, 1.0, 0.0, 1.0)
    pair.run(1, (20, 1, 0.01), (0, 1, 0.0))
    assert pair.known.work("place-a", 50).busy >= 0.9
    pair.run(600, (20, 1, 0.01), (0, 1, 0.0))
    work = pair.known.work("place-a", 50)
    assert 0.09 < work.busy < 0.16
    assert work.rate_per_s == pytest.approx(10.0)
    assert work.ratio == pytest.approx(1.0, abs=0.05)
    assert pair.known.work("place-b", 0).busy <= 0.05
    assert pair.known.seen("place-a", 50) == work
    assert pair.known.seen("place-never", 50).busy == 0.0
    assert pair.known.observed("place-a") == 0.0
    # A busy minute is remembered for a while.
    pair.run(1, (160, 1, 0.01), (0, 1, 0.0))
    pair.run(10, (0, 1, 0.0), (0, 1, 0.0))
    assert pair.known.work("place-a", 50).busy >= 0.7


def test_who_takes_over_takes_the_traffic_with_it(pair: Pair) -> None:
    pair.run(600, (20, 4, 0.022), (0, 1, 0.0))
    before = pair.known.work("place-a", 50)
    old = pair.replicas["a"]
    fresh = replace(old.placement, id="place-new", replaces="place-a")
    pair.replicas["new"] = Replica(fresh, 9)
    pair.run(1, (20, 4, 0.022), (0, 1, 0.0))
    after = pair.known.work("place-new", 50)
    assert (after.busy, after.rate_per_s) == pytest.approx((before.busy, before.rate_per_s), rel=0.1)


def test_batches_of_many_rows_count_as_what_they_take(pair: Pair) -> None:
    pair.run(200, (20, 4, 0.022), (0, 1, 0.0))
    assert pair.known.work("place-a", 50).ratio == pytest.approx(2.2, rel=0.05)


def test_bounds_come_from_profiles_and_live_traffic_corrects_them(pair: Pair) -> None:
    ours, theirs = Occupant("a", 1, 50), Occupant("b", 1, 50)
    predicted = pair.known.bound("CPU x2", ours, [theirs], KIND)
    assert predicted.known
    assert 1.2 < predicted.slowdown < predicted.upper
    assert not pair.known.bound("CPU x2", ours, [Occupant("c", 1, 50)], KIND).known
    assert pair.known.bound("CPU x2", ours, [], KIND).upper == 1.0
    pair.run(30, (20, 1, 0.01), (0, 1, 0.0))
    # Beside a neighbour that never stops it takes less longer than predicted.
    pair.run(60, (20, 1, 0.0122), (199, 1, 0.01))
    assert pair.known.bound("CPU x2", ours, [theirs], KIND).upper < predicted.upper


def test_solo_times_are_of_measured_shares_only(pair: Pair) -> None:
    assert pair.known.solo_s("CPU x2", "a", 1, 50) == pytest.approx(0.010)
    assert pair.known.solo_s("CPU x2", "a", 1, 100) is None
    assert pair.known.solo_s("CPU x2", "c", 1, 50) is None
    assert pair.known.informed()
    assert not Pair().known.informed()


class Known(Table):
    """A table as the control plane asks it."""

    def work(self, placement_id: str, objective_ms: int) -> Work:
        return Work(objective_ms / 1e3)

    def seen(self, placement_id: str, objective_ms: int) -> Work:
        return Work(objective_ms / 1e3, busy=0.0)

    def observed(self, placement_id: str) -> float:
        return 0.0


@pytest.fixture
async def world() -> FleetWorld:
    made = FleetWorld()
    made.knowledge = Known(frozenset({"h1", "h2", "h3"}), frozenset({"l1", "l2"}))
    await made.start()
    made.join("n1", gpu("g0"), gpu("g1"))
    return made


async def test_the_router_keeps_heavy_models_apart_and_lets_light_ones_share(world: FleetWorld) -> None:
    for tenant, name in (("acme", "h1"), ("globex", "h2"), ("acme", "l1"), ("umbra", "l2")):
        await world.model(tenant, name, 25, slo_ms=30 if name.startswith("l") else 15)
        await world.passes(2)
    devices = {name: world.placement(name).partition.device_id for name in ("h1", "h2", "l1", "l2")}
    assert devices["h1"] != devices["h2"]
    assert "slowdown" in world.placement("l1").reason
    assert world.placement("h2").reason.startswith("25 % of the SMs")


async def test_neighbours_are_named_to_the_operator_and_nameless_to_tenants(world: FleetWorld) -> None:
    await world.model("acme", "h1", 25, slo_ms=15)
    await world.passes(2)
    await world.model("globex", "h2", 25, slo_ms=15)
    await world.passes(2)
    globex, acme = world.catalog.tenant("globex"), world.catalog.tenant("acme")
    assert globex is not None
    assert acme is not None
    (theirs,) = decisions_of(world.catalog, globex, "h2", "placement")
    shown = [a.reason for a in theirs.alternatives]
    assert any("too much for itself, a resident" in reason for reason in shown)
    assert not any("h1" in reason or "acme" in reason for reason in shown)
    assert "h1" not in decision_of(world.catalog, globex, theirs.id).alternatives[0].reason
    (operators,) = all_decisions(world.catalog, theirs.id)
    assert any("too much for itself, acme/h1" in a.reason for a in operators.alternatives)
    await world.model("acme", "h3", 25, slo_ms=15)
    await world.passes(2)
    (own,) = decisions_of(world.catalog, acme, "h3", "placement")
    assert any("h1 1.40 x, at most 1.80 x" in a.reason for a in own.alternatives)
