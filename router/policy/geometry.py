"""How an NVIDIA device may be cut into MIG slices, as the planner needs it: sizes, starts, layouts.

A100, H100 and H200 share this geometry: eight memory slices, seven compute slices. A slice is named by its compute
slices (1, 2, 3, 4 or 7) and stands at a memory slice it may start at (NVIDIA MIG user guide, "supported placements").
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from partywall.errors import InvalidInput


class SliceSize(enum.IntEnum):
    """A MIG profile by its number of compute slices."""

    ONE = 1
    TWO = 2
    THREE = 3
    FOUR = 4
    SEVEN = 7


MEMORY_SLICES: Mapping[SliceSize, int] = {
    SliceSize.ONE: 1,
    SliceSize.TWO: 2,
    SliceSize.THREE: 4,
    SliceSize.FOUR: 4,
    SliceSize.SEVEN: 8,
}
STARTS: Mapping[SliceSize, tuple[int, ...]] = {
    SliceSize.ONE: (0, 1, 2, 3, 4, 5, 6),
    SliceSize.TWO: (0, 2, 4),
    SliceSize.THREE: (4, 0),
    SliceSize.FOUR: (0,),
    SliceSize.SEVEN: (0,),
}


@dataclass(frozen=True, slots=True, order=True)
class SlicePosition:
    """A slice at a memory-slice start."""

    start: int
    size: SliceSize

    @property
    def mask(self) -> int:
        """The memory slices it covers, as bits."""
        return ((1 << MEMORY_SLICES[self.size]) - 1) << self.start


Layout = tuple[SlicePosition, ...]
SliceCounts = tuple[int, ...]
"""How many slices of each size, in the order of `SliceSize`."""

SIZES = tuple(SliceSize)


def legal(layout: Iterable[SlicePosition]) -> bool:
    """Whether every slice stands where it may and none overlaps another."""
    taken = 0
    for position in layout:
        if position.start not in STARTS[position.size] or position.mask & taken:
            return False
        taken |= position.mask
    return True


def _grow(layout: Layout, taken: int, first: int, options: tuple[SlicePosition, ...]) -> Iterator[Layout]:
    yield layout
    for index in range(first, len(options)):
        option = options[index]
        if not option.mask & taken:
            yield from _grow((*layout, option), taken | option.mask, index + 1, options)


@functools.cache
def layouts() -> tuple[Layout, ...]:
    """Every legal layout that is not empty (298 of them)."""
    options = tuple(sorted(SlicePosition(start, size) for size in SIZES for start in STARTS[size]))
    return tuple(layout for layout in _grow((), 0, 0, options) if layout)


def maximal_layouts() -> tuple[Layout, ...]:
    """Layouts to which no slice can be added (19)."""
    every = {frozenset(layout) for layout in layouts()}
    options = [SlicePosition(start, size) for size in SIZES for start in STARTS[size]]
    return tuple(
        layout
        for layout in layouts()
        if not any(option not in layout and frozenset((*layout, option)) in every for option in options)
    )


def counts_of(layout: Iterable[SlicePosition]) -> SliceCounts:
    """How many slices of each size a layout has."""
    sizes = [position.size for position in layout]
    return tuple(sizes.count(size) for size in SIZES)


@functools.cache
def patterns() -> tuple[SliceCounts, ...]:
    """Multisets of slices that fit one device and are contained in no other such multiset."""
    every = {counts_of(layout) for layout in layouts()}
    return tuple(
        sorted(
            mine
            for mine in every
            if not any(other != mine and all(a >= b for a, b in zip(other, mine, strict=True)) for other in every)
        )
    )


def lay_out(counts: SliceCounts) -> Layout:
    """Positions for these slices on one device.

    Raises:
        InvalidInput: They do not fit one device.
    """
    found = _positions().get(counts)
    if found is None:
        raise InvalidInput(f"slices {counts} (of sizes {[int(s) for s in SIZES]}) do not fit one device")
    return found


@functools.cache
def _positions() -> Mapping[SliceCounts, Layout]:
    return {counts_of(layout): layout for layout in reversed(layouts())}
