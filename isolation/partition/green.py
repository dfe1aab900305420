"""Green contexts: a sub-share of SMs inside one worker. Best effort, never a wall.

A green context describes SMs and reserves none against other contexts; memory, bandwidth and faults are shared.
Contexts from two separate calls overlap (measured on an H100, torch 2.11: each call splits the whole device from its
start), so all sub-shares of a worker come from one split.
"""

from __future__ import annotations

from dataclasses import dataclass

from partywall.errors import InvalidInput, NotReady, Reason


@dataclass(frozen=True, slots=True)
class Granularity:
    """Smallest set and step in SMs that a device accepts (CUDA C++ Programming Guide, "Green Contexts")."""

    minimum: int
    multiple: int


@dataclass(frozen=True, slots=True)
class SubShare:
    """One set of SMs of a split. `wall` is always empty: nothing is enforced against anybody."""

    name: str
    multiprocessors: int
    wall: str = ""


def granularity(compute_capability: tuple[int, int]) -> Granularity:
    """What to plan with; the device's own answer (`smCoscheduledAlignment`) goes before this table."""
    if compute_capability >= (9, 0):
        return Granularity(8, 8)
    if compute_capability >= (8, 0):
        return Granularity(4, 2)
    return Granularity(2, 2) if compute_capability >= (7, 0) else Granularity(1, 1)


def split(multiprocessors: int, wanted: dict[str, int], step: Granularity) -> tuple[SubShare, ...]:
    """One split of a worker's SMs: each request rounded up to what the device can do, in the order given.

    Args:
        multiprocessors: SMs the worker sees (its own share, not the device's).
        wanted: SMs by name.
        step: The device's granularity.

    Raises:
        InvalidInput: A request below one SM.
        NotReady: They do not fit together.
    """
    shares = tuple(SubShare(name, _rounded(name, count, step)) for name, count in wanted.items())
    taken = sum(share.multiprocessors for share in shares)
    if taken > multiprocessors:
        raise NotReady(
            f"sub-shares take {taken} SMs after rounding to {step.multiple} and the worker has {multiprocessors}; "
            "ask for less or for fewer",
            reason=Reason.NO_PLACE,
            fields={"taken": str(taken), "multiprocessors": str(multiprocessors)},
        )
    return shares


def _rounded(name: str, count: int, step: Granularity) -> int:
    if count < 1:
        raise InvalidInput(f"sub-share {name} asks for {count} SMs; give it at least 1", fields={"field": name})
    return max(step.minimum, -(-count // step.multiple) * step.multiple)
