"""MIG geometry against the published and computed counts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isolation.devices.facts import GpuInstance, MigPlacement
from isolation.devices.geometry import (
    COMPUTE_SLICES,
    DOUBLE_MEMORY_1G,
    MEMORY_SLICES,
    PLAIN_PROFILES,
    MigGeometry,
    MigModel,
    Slot,
)

WITH_DOUBLE = (*PLAIN_PROFILES, DOUBLE_MEMORY_1G)
MODELS = list(MigModel)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(("profiles", "valid", "maximal"), [(PLAIN_PROFILES, 298, 19), (WITH_DOUBLE, 723, 78)])
def test_counts_of_layouts(model: MigModel, profiles: tuple[int, ...], valid: int, maximal: int) -> None:
    geometry = MigGeometry(model)
    layouts = list(geometry.layouts(profiles))
    assert len(layouts) == len(set(layouts)) == valid
    assert len(geometry.maximal_layouts(profiles)) == maximal


def test_there_are_38_multisets_of_plain_profiles() -> None:
    layouts = MigGeometry(MigModel.H100_80).layouts()
    assert len({tuple(sorted(slot.profile_id for slot in layout)) for layout in layouts}) == 38


@pytest.mark.parametrize("model", MODELS)
def test_every_layout_is_disjoint_and_within_the_slices(model: MigModel) -> None:
    geometry = MigGeometry(model)
    for layout in geometry.layouts(WITH_DOUBLE):
        taken = [
            cell
            for slot in layout
            for cell in range(slot.start, slot.start + geometry.profile(slot.profile_id).memory_slices)
        ]
        assert len(taken) == len(set(taken))
        assert max(taken, default=0) < MEMORY_SLICES
        assert sum(geometry.profile(slot.profile_id).slices for slot in layout) <= COMPUTE_SLICES


@pytest.mark.parametrize(
    ("model", "name", "enum", "number", "multiprocessors"),
    [
        (MigModel.A100_40, "1g.5gb", 0, 19, 14),
        (MigModel.A100_80, "3g.40gb", 2, 9, 42),
        (MigModel.H100_80, "1g.20gb", 9, 15, 26),
        (MigModel.H100_80, "7g.80gb", 4, 0, 132),
        (MigModel.H200, "4g.71gb", 3, 5, 64),
        (MigModel.H200, "1g.18gb+me", 7, 20, 16),
    ],
)
def test_profiles_by_name(model: MigModel, name: str, enum: int, number: int, multiprocessors: int) -> None:
    found = {profile.name: profile for profile in MigGeometry(model).profiles}[name]
    assert (found.enum, found.id, found.multiprocessors) == (enum, number, multiprocessors)


@pytest.mark.parametrize("model", MODELS)
def test_no_profile_has_its_enum_as_id(model: MigModel) -> None:
    assert all(profile.enum != profile.id for profile in MigGeometry(model).profiles)


def test_free_placements_leave_out_what_stands() -> None:
    geometry = MigGeometry(MigModel.H100_80)
    standing = (GpuInstance(1, 5, MigPlacement(0, 4)), GpuInstance(2, 19, MigPlacement(5, 1)))
    assert geometry.free_placements(9, standing) == ()
    assert geometry.free_placements(14, standing) == ()
    assert [p.start for p in geometry.free_placements(19, standing)] == [4, 6]


def test_the_media_profile_stands_once() -> None:
    geometry = MigGeometry(MigModel.H100_80)
    assert not geometry.fits((Slot(0, 20),), Slot(1, 20))


@given(st.lists(st.tuples(st.sampled_from(WITH_DOUBLE), st.integers(0, 6)), max_size=12))
def test_greedy_growth_stays_inside_the_enumeration(steps: list[tuple[int, int]]) -> None:
    geometry = MigGeometry(MigModel.A100_40)
    legal = set(geometry.layouts(WITH_DOUBLE))
    layout: tuple[Slot, ...] = ()
    for profile_id, start in steps:
        known = start in {placement.start for placement in geometry.placements(profile_id)}
        if known and geometry.fits(layout, Slot(start, profile_id)):
            layout = tuple(sorted((*layout, Slot(start, profile_id))))
    assert layout in legal
