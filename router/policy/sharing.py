"""Who may share a device with whom: the interference model's upper bounds against everybody's objective. Pure.

For a newcomer beside residents, and for every resident beside the newcomer: service time alone at its share x bound
on the slowdown. The place is acceptable where each of them still meets its objective at its present load. Requests are
late with `sizing.miss_probability`: those whose batch runs while any neighbour does at the bound beside all of them at
once, the others at the time alone, and the partition is in use by the bound on the mean. Residents on the same compute
units stretch each other in proportion to the time they run, on top. What has no profile is unknown, and unknown is not
acceptable: it is isolated until measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from partywall.domain.fleet import Device, DeviceKind, Partition, PartitionKind
from partywall.domain.profiles import device_type
from router.policy.neighbour_costs import Occupant
from router.policy.sharing_words import Assessment, Bounds, Effect, Estimate, Sharing, SharingLimits, Work
from router.policy.sizing import miss_probability
from router.policy.wants import Standing

ALONE = Estimate(1.0, 1.0, 1.0, 0.0)
UNKNOWN = Estimate(1.0, math.inf, math.inf)
_STEPS = 20
_WIDEST = 64.0


@dataclass(frozen=True, slots=True)
class Tenancy:
    """A replica that stands, or would stand, on a device. `placement_id` is empty for the newcomer."""

    placement_id: str
    model_id: str
    version: int
    partition: Partition
    worker_id: str
    work: Work

    @classmethod
    def of(cls, standing: Standing) -> Tenancy:
        """A placement's."""
        one = standing.placement
        return cls(one.id, one.model_id, one.version, one.partition, one.worker_id, standing.work)

    def occupant(self, device: Device, busy: float) -> Occupant:
        """As the interference model knows it."""
        return Occupant(self.model_id, self.version, share_percent(self.partition, device), busy)

    def solo_s(self, device: Device, bounds: Bounds) -> float | None:
        """Seconds of one of its batches alone, as its traffic asks; None where no profile tells."""
        share = share_percent(self.partition, device)
        solo_s = bounds.solo_s(device_type(device), self.model_id, self.version, share)
        return solo_s * self.work.ratio if solo_s is not None else None


def share_percent(partition: Partition, device: Device) -> int:
    """Percent of the device's compute that a partition has."""
    if partition.kind is PartitionKind.CPUSET and device.compute_units:
        return max(1, min(100, round(100 * len(partition.cores) / device.compute_units)))
    return partition.share_percent or 100


def overlap(one: Tenancy, other: Tenancy, device: Device) -> float:
    """Part of `one`'s compute units that `other` uses too, 0 to 1. Replicas of one worker take turns: 1."""
    if one.worker_id == other.worker_id or one.partition.id == other.partition.id:
        return 1.0
    if device.kind is DeviceKind.CPU:
        mine = set(one.partition.cores or device.cores)
        theirs = set(other.partition.cores or device.cores)
        return len(mine & theirs) / len(mine) if mine else 1.0
    both_whole = one.partition.kind is PartitionKind.WHOLE and other.partition.kind is PartitionKind.WHOLE
    return 1.0 if both_whole else 0.0


def estimate(victim: Tenancy, others: Sequence[Tenancy], device: Device, bounds: Bounds) -> Estimate:
    """The victim's slowdown beside all of them, their time on its own units included."""
    if not others:
        return ALONE
    if any(one.solo_s(device, bounds) is None for one in (victim, *others)):
        return UNKNOWN
    stretch, tail, idle = 1.0, 1.0, 1.0
    beside, at_once = [], []
    for other in others:
        busy = other.work.busy
        part = overlap(victim, other, device)
        stretch += part * busy
        tail += part if busy > 0 else 0.0
        idle *= 1.0 - busy
        if part < 1.0:
            beside.append(other.occupant(device, busy))
            at_once.append(other.occupant(device, 1.0 if busy > 0 else 0.0))
    ours, kind, type_name = victim.occupant(device, 1.0), victim.partition.kind, device_type(device)
    mean = bounds.bound(type_name, ours, beside, kind)
    worst = bounds.bound(type_name, ours, at_once, kind)
    upper = mean.upper * stretch
    return Estimate(mean.slowdown * stretch, upper, max(upper, worst.upper * tail), 1.0 - idle)


def strain(service_s: float, slowdown: Estimate, work: Work, limits: SharingLimits) -> float:
    """By what the service time would have to shrink so that the objective is just met; above 1.0 it is missed.

    Args:
        service_s: A batch alone, as this traffic asks for it.
        slowdown: Beside the neighbours.
        work: Rate and objective.
        limits: What may be missed.
    """
    if not math.isfinite(slowdown.tail_upper):
        return math.inf
    if not work.objective_s:
        return slowdown.upper / limits.tolerated
    low, high = math.log(1 / _WIDEST), math.log(_WIDEST)
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if _late(service_s * math.exp(middle), slowdown, work) <= limits.miss:
            low = middle
        else:
            high = middle
    return math.exp(-low)


def _late(service_s: float, slowdown: Estimate, work: Work) -> float:
    """The part of the requests that comes too late, over whether any neighbour runs beside the batch."""
    late = 0.0
    for part, stretched in ((1.0 - slowdown.beside, 1.0), (slowdown.beside, slowdown.tail_upper)):
        if part > 0:
            # How much of the time the partition is in use is the mean's business, whatever this batch takes.
            rate = work.rate_per_s * slowdown.upper / stretched
            late += part * miss_probability(service_s * stretched, 1, rate, 1.0, work.objective_s)
    return late


def effect(victim: Tenancy, others: Sequence[Tenancy], device: Device, bounds: Bounds, limits: SharingLimits) -> Effect:
    """What standing beside the others comes to for one model."""
    slowdown = estimate(victim, others, device, bounds)
    if not math.isfinite(slowdown.tail_upper):
        return Effect(victim.placement_id, victim.model_id, slowdown, math.inf, Sharing.UNKNOWN)
    service_s = victim.solo_s(device, bounds)
    if service_s is None:  # alone, and never measured: nobody is there who could cost it anything
        return Effect(victim.placement_id, victim.model_id, slowdown, 0.0, Sharing.ACCEPTABLE)
    strained = strain(service_s, slowdown, victim.work, limits)
    alone = strain(service_s, ALONE, victim.work, limits)
    bears = strained <= 1.0 or (alone > 1.0 and strained <= limits.hopeless * alone)
    sharing = Sharing.ACCEPTABLE if bears else Sharing.HARMFUL
    return Effect(victim.placement_id, victim.model_id, slowdown, strained, sharing)


def observed_strain(victim: Tenancy, slowdown: float, device: Device, bounds: Bounds, limits: SharingLimits) -> float:
    """Strain at a slowdown that was measured; 0.0 where the objective is kept, or is missed alone already."""
    service_s = victim.solo_s(device, bounds)
    if service_s is None:
        return 0.0
    found = strain(service_s, Estimate(slowdown, slowdown, slowdown), victim.work, limits)
    alone = strain(service_s, ALONE, victim.work, limits)
    return 0.0 if found <= 1.0 or (alone > 1.0 and found <= limits.hopeless * alone) else found


def keeps(victim: Tenancy, others: Sequence[Tenancy], device: Device, bounds: Bounds, limits: SharingLimits) -> bool:
    """Whether a model is known to keep its objective beside the others; cheaper than `effect`."""
    service_s = victim.solo_s(device, bounds)
    slowdown = estimate(victim, others, device, bounds)
    if service_s is None or not math.isfinite(slowdown.tail_upper):
        return False
    if not victim.work.objective_s:
        return slowdown.upper <= limits.tolerated
    return _late(service_s, slowdown, victim.work) <= limits.miss


def effects(there: Sequence[Tenancy], device: Device, bounds: Bounds, limits: SharingLimits) -> tuple[Effect, ...]:
    """What all that stand on a device come to for each other, in order."""
    return tuple(effect(one, [*there[:at], *there[at + 1 :]], device, bounds, limits) for at, one in enumerate(there))


def assess(
    newcomer: Tenancy, residents: Sequence[Tenancy], device: Device, bounds: Bounds, limits: SharingLimits
) -> Assessment:
    """A newcomer on a device beside who is there."""
    all_of_them = effects([newcomer, *residents], device, bounds, limits)
    worst = max((e.sharing for e in all_of_them), default=Sharing.ACCEPTABLE)
    own = all_of_them[0]
    service_s = newcomer.solo_s(device, bounds)
    known = service_s is not None and math.isfinite(own.estimate.upper)
    finish_s = service_s * own.estimate.upper if service_s is not None and known else None
    return Assessment(
        worst, all_of_them, not residents, finish_s, _reason(newcomer, residents, worst, all_of_them, device, bounds)
    )


def slowdown_words(slowdown: Estimate) -> str:
    """`1.08 x, at most 1.21 x`."""
    if not math.isfinite(slowdown.tail_upper):
        return "not known"
    return f"{slowdown.mean:.2f} x, at most {slowdown.tail_upper:.2f} x"


def _reason(
    newcomer: Tenancy,
    residents: Sequence[Tenancy],
    worst: Sharing,
    all_of_them: Sequence[Effect],
    device: Device,
    bounds: Bounds,
) -> str:
    if not residents:
        return "nobody else is on the device"
    unknown = [one for one in residents if one.solo_s(device, bounds) is None]
    if newcomer.solo_s(device, bounds) is None:
        return "what sharing costs it and its neighbours has never been measured"
    if unknown:
        return f"no profile tells what sharing costs {_named(unknown)}"
    own, others = all_of_them[0], all_of_them[1:]
    most = max(others, key=lambda e: e.strain)
    said = f"slowdown {slowdown_words(own.estimate)}; <model:{most.model_id}> {slowdown_words(most.estimate)}"
    if worst is Sharing.ACCEPTABLE:
        return said
    late = [e for e in all_of_them if e.sharing is not Sharing.ACCEPTABLE]
    whom = ["itself" if not e.placement_id else f"<model:{e.model_id}>" for e in late]
    return f"{said}; too much for {', '.join(dict.fromkeys(whom))}"


def _named(them: Sequence[Tenancy]) -> str:
    return ", ".join(dict.fromkeys(f"<model:{one.model_id}>" for one in them))
