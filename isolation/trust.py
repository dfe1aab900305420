"""Who may stand beside whom: the trust rule as one pure function (DESIGN: "Trust decides the wall before speed does").

    policy       weakest wall a tenant accepts between itself and another tenant of its trust group
    exclusive    its own device
    hardware     its own MIG instance
    process      its own worker and partition on a shared device (an MPS server, a host's cores)
    shared       the same worker

A pair takes the stricter of its two policies and the operator's floor; across trust groups nothing below a MIG
instance. A tenant is no neighbour to itself. A cpuset partition counts as an MPS one: same device.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import InitVar, dataclass

from partywall.domain.fleet import PartitionKind
from partywall.domain.placements import Placement
from partywall.domain.tenants import TrustPolicy


class Wall(enum.IntEnum):
    """What stands between two residents; a greater wall is a stronger one."""

    SAME_WORKER = 0
    SAME_PARTITION = 1
    SAME_DEVICE = 2
    OWN_MIG_INSTANCE = 3
    OWN_DEVICE = 4


@dataclass(frozen=True, slots=True)
class Resident:
    """A tenant as far as trust goes."""

    tenant_id: str
    policy: TrustPolicy
    group: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """The placement must not be; `reason` names the pair and the wall that was missing."""

    reason: str
    tenant_id: str
    beside: str
    needed: Wall
    offered: Wall


class _Rule:
    """Only this module holds one, so that only the rule can build a `Clearance`."""


_RULE = _Rule()


@dataclass(frozen=True, slots=True)
class Clearance:
    """Proof that the rule was asked and agreed. Only `clear` and `clear_all` build it; `replace` does not.

    Attributes:
        tenant_id: The newcomer.
        walls: What was cleared: each other resident's tenant id with the wall between.
        floor: The operator's floor at the time.
    """

    tenant_id: str
    walls: tuple[tuple[str, Wall], ...]
    floor: TrustPolicy
    rule: InitVar[object]

    def __post_init__(self, rule: object) -> None:
        if rule is not _RULE:
            raise TypeError("a Clearance comes from isolation.trust.clear, not from its constructor")


_NEEDED = {
    TrustPolicy.EXCLUSIVE: Wall.OWN_DEVICE,
    TrustPolicy.HARDWARE: Wall.OWN_MIG_INSTANCE,
    TrustPolicy.PROCESS: Wall.SAME_DEVICE,
    TrustPolicy.SHARED: Wall.SAME_WORKER,
}


def needed_wall(one: Resident, other: Resident, floor: TrustPolicy) -> Wall:
    """The weakest wall that may stand between two tenants."""
    if one.tenant_id == other.tenant_id:
        return Wall.SAME_WORKER
    by_policy = max(_NEEDED[policy] for policy in (one.policy, other.policy, floor))
    return by_policy if one.group == other.group else max(by_policy, Wall.OWN_MIG_INSTANCE)


def clear(newcomer: Resident, residents: Iterable[Resident], floor: TrustPolicy, wall: Wall) -> Clearance | Refusal:
    """Whether `newcomer` may stand with `wall` between itself and each of `residents`.

    Args:
        newcomer: The tenant to be placed.
        residents: Everybody on the other side of that wall; the newcomer itself may be among them.
        floor: The strictest of policies that the operator asks of everyone.
        wall: What would stand between.
    """
    return clear_all(newcomer, {wall: residents}, floor)


def clear_all(
    newcomer: Resident, residents: Mapping[Wall, Iterable[Resident]], floor: TrustPolicy
) -> Clearance | Refusal:
    """As `clear`, for residents behind different walls at once (same worker, same device, ...)."""
    walls = []
    for wall, others in residents.items():
        for other in others:
            needed = needed_wall(newcomer, other, floor)
            if wall < needed:
                return _refusal(newcomer, other, floor, needed, wall)
            walls.append((other.tenant_id, wall))
    return Clearance(newcomer.tenant_id, tuple(sorted(walls)), floor, _RULE)


def wall_between(one: Placement, other: Placement) -> Wall:
    """What stands between two placements, by node, device, partition and worker.

    MPS or a cpuset inside one device is `SAME_DEVICE`, also where one of the two has a MIG instance of the device
    and the other the device itself.
    """
    if one.node != other.node or one.partition.device_id != other.partition.device_id:
        return Wall.OWN_DEVICE
    if one.partition.id == other.partition.id:
        return Wall.SAME_WORKER if one.worker_id == other.worker_id else Wall.SAME_PARTITION
    both_mig = one.partition.kind is PartitionKind.MIG and other.partition.kind is PartitionKind.MIG
    return Wall.OWN_MIG_INSTANCE if both_mig else Wall.SAME_DEVICE


def _refusal(newcomer: Resident, other: Resident, floor: TrustPolicy, needed: Wall, offered: Wall) -> Refusal:
    if newcomer.group != other.group:
        why = f"trust groups {newcomer.group!r} and {other.group!r} differ"
    else:
        why = f"policies are {newcomer.policy} and {other.policy}, the operator's floor is {floor}"
    reason = (
        f"tenant {newcomer.tenant_id} beside {other.tenant_id}: {_words(offered)} is offered and "
        f"{_words(needed)} is needed, because {why}"
    )
    return Refusal(reason, newcomer.tenant_id, other.tenant_id, needed, offered)


def _words(wall: Wall) -> str:
    return wall.name.lower().replace("_", " ")
