"""Where a replica goes: fits the memory, is cleared by the trust rule, and keeps everybody's objective. Pure.

A tenant keeps to one partition of a device unless a version asks for a share of its own: its neighbours' cores are not
eaten up by its second model. `choosing` ranks what is left. Every candidate that was looked at is in the answer, with
the reason for or against it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from isolation.trust import Refusal, Resident, Wall, clear_all, wall_between
from partywall.domain.placements import Alternative, Placement
from partywall.domain.tenants import TrustPolicy
from router.policy.candidates import candidates, core_count, judge
from router.policy.choosing import Option, choose
from router.policy.sharing_words import Bounds
from router.policy.wants import Chosen, NodeView, NoPlace, Operator, Standing, Want

__all__ = ["Chosen", "NoPlace", "NodeView", "Operator", "Standing", "Want", "core_count", "place", "to_move"]


def place(
    want: Want,
    nodes: Sequence[NodeView],
    standing: Sequence[Standing],
    operator: Operator,
    new_id: Callable[[str], str],
    *,
    leaving: Collection[str] = (),
    bounds: Bounds | None = None,
) -> Chosen | NoPlace:
    """Decides for one replica.

    Args:
        want: The replica.
        nodes: The live nodes.
        standing: Every placement there is.
        operator: The operator's say.
        new_id: `new_id(prefix)` names new partitions and workers.
        leaving: Ids of placements whose work this one takes over: they need their memory until it serves, and are
            otherwise as good as gone.
        bounds: What neighbours cost each other; None: nobody knows.
    """
    staying = [s for s in standing if s.placement.id not in leaving]
    devices = [(node, device) for node in nodes for device in node.devices]
    if not devices:
        return NoPlace("no node is online; start an agent (partywall agent, or partywall up)", False, ())
    if want.memory_bytes > max(device.memory_bytes for _, device in devices):
        largest = max(device.memory_bytes for _, device in devices)
        return NoPlace(
            f"needs {mib(want.memory_bytes)} and the largest device has {mib(largest)}: too large for every device",
            True,
            (),
        )
    over = _over_quota(want, staying)
    if over:
        return NoPlace(over, False, ())
    looked_at: list[Alternative] = []
    open_to_it: list[Option] = []
    for node, device in devices:
        if device.fenced:
            looked_at.append(Alternative(f"{node.name}/{device.id}", False, f"fenced: {device.fenced}"))
            continue
        here = [s for s in standing if s.placement.node == node.name and s.placement.partition.device_id == device.id]
        free = device.memory_bytes - sum(s.placement.memory_bytes for s in here)
        if want.memory_bytes > free:
            reason = f"needs {mib(want.memory_bytes)}, {mib(max(0, free))} free"
            looked_at.append(Alternative(f"{node.name}/{device.id}", False, reason))
            continue
        here = [s for s in here if s.placement.id not in leaving]
        for candidate in candidates(want, node, device, here, operator, new_id):
            if isinstance(candidate, str):
                looked_at.append(Alternative(f"{node.name}/{device.id}", False, candidate))
                continue
            verdict = judge(want, candidate, staying, here, operator)
            if isinstance(verdict, Alternative):
                looked_at.append(verdict)
            else:
                open_to_it.append(Option(candidate, verdict, tuple(here)))
    if not open_to_it:
        return NoPlace(_summary(want, looked_at), False, tuple(looked_at))
    return choose(want, open_to_it, looked_at, operator, bounds)


def to_move(standing: Sequence[Standing], floor: TrustPolicy) -> list[Placement]:
    """Placements that may no longer stand where they are, after a policy, a group or the floor changed.

    Of a pair that the rule refuses, the one with the stricter policy goes (its owner asked for it), else the younger.
    """
    left = list(standing)
    gone: list[Placement] = []
    for one in sorted(standing, key=_strictness):
        others = [s for s in left if s is not one]
        walls: dict[Wall, list[Resident]] = {}
        for other in others:
            walls.setdefault(wall_between(one.placement, other.placement), []).append(other.resident)
        if isinstance(clear_all(one.resident, walls, floor), Refusal):
            left.remove(one)
            gone.append(one.placement)
    return gone


def _strictness(standing: Standing) -> tuple[int, int]:
    return list(TrustPolicy).index(standing.resident.policy), -standing.placement.generation


def _over_quota(want: Want, standing: Sequence[Standing]) -> str:
    if want.memory_quota_bytes is None:
        return ""
    used = sum(s.placement.memory_bytes for s in standing if s.resident.tenant_id == want.resident.tenant_id)
    if used + want.memory_bytes <= want.memory_quota_bytes:
        return ""
    return (
        f"needs {mib(want.memory_bytes)} beside {mib(used)} in use, and the quota is "
        f"{mib(want.memory_quota_bytes)} of device memory; release a model or ask for more (quota set --device-memory)"
    )


def _summary(want: Want, looked_at: Sequence[Alternative]) -> str:
    if not looked_at and want.apart:
        return "no device has compute units to spare for another replica"
    reasons = "; ".join(dict.fromkeys(a.reason for a in looked_at))
    return f"no device can take it now: {reasons}"


def mib(size: int) -> str:
    """For people."""
    return f"{size / (1 << 20):,.0f} MiB"
