"""The planner's small geometry and the device library's full one tell the same about an A100."""

from __future__ import annotations

from isolation.devices.geometry import PLAIN_PROFILES, MigGeometry, MigModel
from router.policy.geometry import MEMORY_SLICES, STARTS, SliceSize


def test_same_sizes_and_starts() -> None:
    geometry = MigGeometry(MigModel.A100_80)
    profiles = {p.slices: p for p in map(geometry.profile, PLAIN_PROFILES)}
    assert set(profiles) == {size.value for size in SliceSize}
    for size in SliceSize:
        profile = profiles[size.value]
        assert profile.memory_slices == MEMORY_SLICES[size]
        assert {place.start for place in geometry.placements(profile.id)} == set(STARTS[size])
