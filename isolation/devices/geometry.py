"""MIG geometry: which instances may stand together on one GPU.

A GPU has 8 memory slices and 7 compute slices. An instance takes a run of memory slices at one of its profile's
starts, and some compute slices; a layout is legal when no memory slice is taken twice and at most 7 compute slices
are (NVIDIA MIG User Guide, "Partitioning"; A100, H100 and H200 share the geometry). The numbers here serve planning
and the simulator: on hardware, what the driver lists is the truth.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from isolation.devices.facts import GpuInstance, MigPlacement, MigProfile

COMPUTE_SLICES = 7
MEMORY_SLICES = 8
_GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class _Shape:
    """What a profile is on every card: NVML enum and id, slices, size and starts in memory slices, how many at most."""

    enum: int
    id: int
    slices: int
    size: int
    starts: tuple[int, ...]
    most: int
    media_extensions: bool = False


_SHAPES = (
    _Shape(enum=0, id=19, slices=1, size=1, starts=(0, 1, 2, 3, 4, 5, 6), most=7),
    _Shape(enum=1, id=14, slices=2, size=2, starts=(0, 2, 4), most=3),
    _Shape(enum=2, id=9, slices=3, size=4, starts=(0, 4), most=2),
    _Shape(enum=3, id=5, slices=4, size=4, starts=(0,), most=1),
    _Shape(enum=4, id=0, slices=7, size=8, starts=(0,), most=1),
    _Shape(enum=7, id=20, slices=1, size=1, starts=(0, 1, 2, 3, 4, 5, 6), most=1, media_extensions=True),
    _Shape(enum=9, id=15, slices=1, size=2, starts=(0, 2, 4, 6), most=4),
)

PLAIN_PROFILES = (19, 14, 9, 5, 0)
"""1g, 2g, 3g, 4g, 7g, by profile id."""
DOUBLE_MEMORY_1G = 15


class MigModel(enum.StrEnum):
    """Cards whose geometry is known."""

    A100_40 = "NVIDIA A100-SXM4-40GB"
    A100_80 = "NVIDIA A100-SXM4-80GB"
    H100_80 = "NVIDIA H100 80GB HBM3"
    H200 = "NVIDIA H200"


@dataclass(frozen=True, slots=True)
class _Card:
    """Memory, SMs outside MIG, compute capability, the sizes in profile names, SMs of each profile id."""

    memory_bytes: int
    multiprocessors: int
    compute_capability: tuple[int, int]
    gigabytes: tuple[int, int, int, int]
    multiprocessors_by_id: dict[int, int]


# SM counts: H100 read from its NVML; A100 from NVIDIA's guide. The H200 has the H100's die and is taken to be equal.
_A100_SMS = {19: 14, 20: 14, 15: 14, 14: 28, 9: 42, 5: 56, 0: 98}
_H100_SMS = {19: 16, 20: 16, 15: 26, 14: 32, 9: 60, 5: 64, 0: 132}
_CARDS = {
    MigModel.A100_40: _Card(40 * _GIB, 108, (8, 0), (5, 10, 20, 40), _A100_SMS),
    MigModel.A100_80: _Card(80 * _GIB, 108, (8, 0), (10, 20, 40, 80), _A100_SMS),
    MigModel.H100_80: _Card(80 * _GIB, 132, (9, 0), (10, 20, 40, 80), _H100_SMS),
    MigModel.H200: _Card(141 * _GIB, 132, (9, 0), (18, 35, 71, 141), _H100_SMS),
}


@dataclass(frozen=True, slots=True, order=True)
class Slot:
    """A profile at a place: one instance of a layout."""

    start: int
    profile_id: int


Layout = tuple[Slot, ...]
"""Instances that stand together, by start."""


class MigGeometry:
    """The geometry of one card. Layouts are sorted tuples, so that equal layouts are equal values."""

    def __init__(self, model: MigModel) -> None:
        card = _CARDS[model]
        self.model = model
        self.memory_bytes = card.memory_bytes
        self.multiprocessors = card.multiprocessors
        self.compute_capability = card.compute_capability
        self.profiles = tuple(_profile(shape, card) for shape in _SHAPES)
        self._by_id = {profile.id: profile for profile in self.profiles}
        self._starts = {shape.id: shape.starts for shape in _SHAPES}

    def profile(self, profile_id: int) -> MigProfile:
        """Raises `KeyError` for an id this card has not: an enum passed as an id, usually."""
        return self._by_id[profile_id]

    def placements(self, profile_id: int) -> tuple[MigPlacement, ...]:
        """All legal placements, occupied or not."""
        size = self._by_id[profile_id].memory_slices
        return tuple(MigPlacement(start, size) for start in self._starts[profile_id])

    def free_placements(self, profile_id: int, standing: Sequence[GpuInstance]) -> tuple[MigPlacement, ...]:
        """Placements at which a further instance may be made beside what stands."""
        layout = layout_of(standing)
        return tuple(p for p in self.placements(profile_id) if self.fits(layout, Slot(p.start, profile_id)))

    def fits(self, layout: Layout, slot: Slot) -> bool:
        """Whether `slot` may join a legal layout."""
        profile = self._by_id[slot.profile_id]
        mine = MigPlacement(slot.start, profile.memory_slices)
        if any(mine.overlaps(self._place(other)) for other in layout):
            return False
        if sum(other.profile_id == slot.profile_id for other in layout) >= profile.max_instances:
            return False
        return profile.slices + sum(self._by_id[other.profile_id].slices for other in layout) <= COMPUTE_SLICES

    def layouts(self, profile_ids: Sequence[int] = PLAIN_PROFILES) -> Iterator[Layout]:
        """All legal layouts of these profiles, the empty one first."""
        return self._grow((), self._slots(profile_ids))

    def maximal_layouts(self, profile_ids: Sequence[int] = PLAIN_PROFILES) -> tuple[Layout, ...]:
        """Layouts to which no instance of these profiles can be added."""
        slots = self._slots(profile_ids)
        return tuple(x for x in self.layouts(profile_ids) if not any(self.fits(x, slot) for slot in slots))

    def _slots(self, profile_ids: Sequence[int]) -> tuple[Slot, ...]:
        return tuple(sorted(Slot(start, number) for number in profile_ids for start in self._starts[number]))

    def _grow(self, layout: Layout, slots: tuple[Slot, ...]) -> Iterator[Layout]:
        yield layout
        for position, slot in enumerate(slots):
            if self.fits(layout, slot):
                yield from self._grow((*layout, slot), slots[position + 1 :])

    def _place(self, slot: Slot) -> MigPlacement:
        return MigPlacement(slot.start, self._by_id[slot.profile_id].memory_slices)


def layout_of(instances: Sequence[GpuInstance]) -> Layout:
    """The layout that standing instances make."""
    return tuple(sorted(Slot(instance.placement.start, instance.profile_id) for instance in instances))


def _profile(shape: _Shape, card: _Card) -> MigProfile:
    gigabytes = card.gigabytes[(1, 2, 4, 8).index(shape.size)]
    suffix = "+me" if shape.media_extensions else ""
    return MigProfile(
        enum=shape.enum,
        id=shape.id,
        name=f"{shape.slices}g.{gigabytes}gb{suffix}",
        slices=shape.slices,
        memory_slices=shape.size,
        # Nominal: a driver gives a little less than its share of the slices.
        memory_bytes=card.memory_bytes * shape.size // MEMORY_SLICES,
        multiprocessors=card.multiprocessors_by_id[shape.id],
        max_instances=shape.most,
        media_extensions=shape.media_extensions,
    )
