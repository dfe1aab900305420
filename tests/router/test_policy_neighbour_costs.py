"""One contract over both sides of `SlowdownBounds`, and what only profiles can tell."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from partywall.domain.fleet import PartitionKind
from partywall.domain.profiles import ProbePoint, ProbeSetting, Profile, Resource
from partywall.errors import InvalidInput
from router.gateway.profiled_bounds import ProfiledBounds, behind_mig
from router.policy.neighbour_costs import ALONE, Basis, Occupant, SlowdownBounds, TableBounds

DEVICE = "CPU x2"
KIND = PartitionKind.CPUSET
VICTIM, NEIGHBOUR, NEW = Occupant("victim", 1, 50), Occupant("neighbour", 1, 50), Occupant("new", 1, 50)


def profile_of(name: str, resource: Resource = Resource.LLC) -> Profile:
    at = ProbePoint(ProbeSetting(resource), 50, 50)
    return Profile(name, DEVICE, {50: 10.0}, {50: 10.0}, {at: 1.4}, {at: 1.5}, probe_self={at: 2.0})


class Book:
    def __init__(self, *known: Profile) -> None:
        self.known = {p.model: p for p in known}

    def profile(self, model_id: str, version: int, device_type: str) -> Profile | None:
        return self.known.get(model_id) if device_type == DEVICE else None


def profiled() -> SlowdownBounds:
    return ProfiledBounds(Book(profile_of("victim"), profile_of("neighbour")))


def tabulated() -> SlowdownBounds:
    return TableBounds({("victim", "neighbour"): (1.3, 1.5)})


both_sides = pytest.mark.parametrize("make", [profiled, tabulated])


@both_sides
def test_nobody_beside_costs_nothing(make: Callable[[], SlowdownBounds]) -> None:
    assert make().bound(DEVICE, VICTIM, (), KIND) == ALONE


@both_sides
def test_a_bound_lies_above_its_mean_and_grows_with_what_stands_beside(make: Callable[[], SlowdownBounds]) -> None:
    bounds = make()
    idle = bounds.bound(DEVICE, VICTIM, (Occupant("neighbour", 1, 50, 0.2),), KIND)
    one = bounds.bound(DEVICE, VICTIM, (NEIGHBOUR,), KIND)
    two = bounds.bound(DEVICE, VICTIM, (NEIGHBOUR, NEIGHBOUR), KIND)
    assert 1.0 <= idle.slowdown < one.slowdown < two.slowdown
    assert all(p.known and p.slowdown < p.upper and p.basis is Basis.PROFILES for p in (idle, one, two))
    assert bounds.bound(DEVICE, VICTIM, (NEIGHBOUR,), KIND) == one


@both_sides
def test_what_was_never_measured_has_no_bound(make: Callable[[], SlowdownBounds]) -> None:
    found = make().bound(DEVICE, VICTIM, (NEIGHBOUR, NEW), KIND)
    assert math.isinf(found.upper)
    assert not found.known
    assert found.basis is Basis.CONSTANT


def test_profiles_hold_for_their_type_of_device_only() -> None:
    assert not profiled().bound("CPU x64", VICTIM, (NEIGHBOUR,), KIND).known


def test_a_new_profile_changes_the_answer() -> None:
    book = Book(profile_of("victim"), profile_of("neighbour"))
    bounds = ProfiledBounds(book)
    before = bounds.bound(DEVICE, VICTIM, (NEIGHBOUR,), KIND)
    at = ProbePoint(ProbeSetting(Resource.LLC), 50, 50)
    book.known["victim"] = Profile("victim", DEVICE, {50: 10.0}, {}, {at: 2.0}, {at: 1.5}, probe_self={at: 2.0})
    assert bounds.bound(DEVICE, VICTIM, (NEIGHBOUR,), KIND).slowdown > before.slowdown


def test_more_neighbours_than_are_told_apart_are_still_answered() -> None:
    many = tuple(Occupant("neighbour", 1, 10, busy=0.5) for _ in range(9))
    assert profiled().bound(DEVICE, Occupant("victim", 1, 10), many, KIND).known


def test_behind_mig_memory_is_nobody_elses() -> None:
    def beside(resource: Resource, kind: PartitionKind) -> float:
        book = Book(profile_of("victim", resource), profile_of("neighbour", resource))
        return ProfiledBounds(book).bound(DEVICE, VICTIM, (NEIGHBOUR,), kind).upper

    assert math.isfinite(beside(Resource.DRAM, PartitionKind.MPS))
    assert math.isinf(beside(Resource.DRAM, PartitionKind.MIG))
    assert beside(Resource.POWER, PartitionKind.MIG) == beside(Resource.POWER, PartitionKind.MPS)
    assert not behind_mig(profile_of("victim", Resource.L2)).probed


@pytest.mark.parametrize(("share", "busy"), [(0, 1.0), (101, 1.0), (50, -0.1), (50, 1.1)])
def test_an_occupant_has_a_share_and_a_part_of_the_time(share: int, busy: float) -> None:
    with pytest.raises(InvalidInput):
        Occupant("victim", 1, share, busy)
