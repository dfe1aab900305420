"""What another share would mean for those who stand there: what is left, who is worse off, what stands then. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from isolation.partition.mig import slot_of
from partywall.domain.fleet import PartitionKind
from router.policy.regroup_words import Resident
from router.policy.reshare_curve import factor
from router.policy.reshare_words import Cut, Holding, Size
from router.policy.retarget import Target
from router.policy.sharing import Tenancy, effects, overlap
from router.policy.sharing_words import Bounds, Effect, Sharing, SharingLimits, Work
from router.policy.wants import NodeView, Standing

_ROUNDING = 1e-9


def cuts_of(nodes: Sequence[NodeView], holdings: Sequence[Holding]) -> list[Cut]:
    """The partitions that stand on live nodes, with all that hold each."""
    devices = {(n.name, d.id): d for n in nodes for d in n.devices}
    inside: dict[tuple[str, str], list[Holding]] = {}
    for one in holdings:
        if one.resident.where in devices:
            inside.setdefault((one.resident.placement.node, one.resident.placement.partition.id), []).append(one)
    return [
        Cut(node, devices[held[0].resident.where], held[0].resident.placement.partition, tuple(held))
        for (node, _), held in inside.items()
    ]


def leaves_room(cut: Cut, target: Target, others: Sequence[Cut]) -> bool:
    """Whether a default share, or a MIG instance, stays free on the device, beside what `others` hold."""
    if target.partition.kind is PartitionKind.MIG:
        return len({slot_of(p) for p in (target.partition, *(c.partition for c in others))}) < len(cut.device.instances)
    if target.partition.cores:
        taken = {core for c in others for core in c.partition.cores or cut.device.cores}
        left = len(set(cut.device.cores) - taken - set(target.partition.cores))
    else:
        left = 100 - sum(c.size.percent for c in others) - target.partition.share_percent
    return left >= cut.default.units


def bearable(cut: Cut, target: Target, here: Sequence[Cut], bounds: Bounds, limits: SharingLimits) -> bool:
    """Whether nobody on the device is worse off, by what was seen of all of them."""
    before = {e.placement_id: e for e in there(cut, None, here, bounds, limits, feared=False)}
    after = there(cut, target, here, bounds, limits, feared=False)
    return all(_no_worse(e, before[e.placement_id]) for e in after)


def peaceful(cut: Cut, target: Target, here: Sequence[Cut], bounds: Bounds, limits: SharingLimits) -> bool:
    """Whether everybody on the device keeps the objective, by what is feared of the others."""
    return all(e.sharing is Sharing.ACCEPTABLE for e in there(cut, target, here, bounds, limits, feared=True))


def there(
    cut: Cut, target: Target | None, here: Sequence[Cut], bounds: Bounds, limits: SharingLimits, *, feared: bool
) -> tuple[Effect, ...]:
    """Everybody on the device beside everybody, with the share as it is (no target) or as it would be."""
    tenancies: list[Tenancy] = []
    for other in here:
        for at, holding in enumerate(other.holdings):
            one = holding.resident
            tenancy = Tenancy.of(one.member.standing) if feared else one.tenancy
            if target is not None and other.key == cut.key:
                work = _stretched(tenancy.work, holding, cut.size, replace(cut, partition=target.partition).size)
                worker_id = target.chosen[at].worker_id
                tenancy = replace(tenancy, partition=target.partition, worker_id=worker_id, work=work)
            tenancies.append(tenancy)
    return effects(tenancies, cut.device, bounds, limits)


def shared_in_time(cut: Cut, others: Sequence[Cut]) -> bool:
    """Whether another partition has some of the same units."""
    mine = Tenancy.of(cut.holdings[0].resident.member.standing)
    return any(overlap(mine, Tenancy.of(c.holdings[0].resident.member.standing), cut.device) > 0 for c in others)


def standing_then(standing: Sequence[Standing], cut: Cut, target: Target) -> list[Standing]:
    """What stands when the partition is the target's."""
    return [_then(s, cut, target) for s in standing]


def residents_then(residents: Sequence[Resident], cut: Cut, target: Target) -> list[Resident]:
    """Likewise."""
    out = []
    for one in residents:
        standing = _then(one.member.standing, cut, target)
        out.append(replace(one, member=replace(one.member, standing=standing)))
    return out


def _then(standing: Standing, cut: Cut, target: Target) -> Standing:
    placement = standing.placement
    if (placement.node, placement.partition.id) != cut.key:
        return standing
    return replace(standing, placement=replace(placement, partition=target.partition))


def _stretched(work: Work, holding: Holding, now: Size, then: Size) -> Work:
    """On a smaller share it works more of the time; that it would less on a larger one is not counted on."""
    longer = factor(holding, 1, now, then)
    return replace(work, busy=min(1.0, work.busy * max(1.0, longer if longer is not None else 1.0)))


def _no_worse(then: Effect, before: Effect) -> bool:
    if then.sharing is Sharing.ACCEPTABLE:
        return True
    return then.sharing == before.sharing and then.strain <= before.strain * (1 + _ROUNDING)
