"""Where a replica goes: fits the memory, is cleared by the trust rule, and keeps everybody's objective. Pure.

A tenant keeps to one partition of a device unless a version asks for a share of its own: its neighbours' cores are not
eaten up by its second model. `choosing` ranks what is left. Every candidate that was looked at is in the answer, with
the reason for or against it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from isolation.trust import Refusal, Resident, Wall, clear_all, wall_between
from partywall.domain.fleet import Device
from partywall.domain.placements import Alternative, Placement
from partywall.domain.tenants import TrustPolicy
from partywall.errors import InternalError
from router.policy.candidates import candidates, clear_place, core_count, judge
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
    looked_at, open_to_it = _options(want, devices, by_device(standing), operator, new_id, leaving)
    if not open_to_it:
        return NoPlace(_summary(want, looked_at), False, tuple(looked_at))
    answer = choose(want, open_to_it, looked_at, operator, bounds)
    if isinstance(answer, NoPlace):
        return answer
    cleared = clear_place(want, answer.node, answer.partition, answer.worker_id, staying, operator.floor)
    if isinstance(cleared, Refusal):
        raise InternalError(f"a place was chosen that trust refuses: {cleared.reason}")
    return replace(answer, clearance=cleared)


def _options(
    want: Want,
    devices: Iterable[tuple[NodeView, Device]],
    there: Mapping[tuple[str, str], Sequence[Standing]],
    operator: Operator,
    new_id: Callable[[str], str],
    leaving: Collection[str],
) -> tuple[list[Alternative], list[Option]]:
    """Places that are ruled out, each with the reason, and those that fit and are cleared by trust."""
    looked_at: list[Alternative] = []
    open_to_it: list[Option] = []
    for node, device in devices:
        if device.fenced:
            looked_at.append(Alternative(f"{node.name}/{device.id}", False, f"fenced: {device.fenced}"))
            continue
        here = there.get((node.name, device.id), [])
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
            # Who stands on another device never refuses anybody: the strongest wall is between.
            verdict = judge(want, candidate, here, here, operator)
            if isinstance(verdict, Alternative):
                looked_at.append(verdict)
            else:
                open_to_it.append(Option(candidate, verdict, tuple(here)))
    return looked_at, open_to_it


def to_move(standing: Sequence[Standing], floor: TrustPolicy) -> list[Placement]:
    """Placements that may no longer stand where they are, after a policy, a group or the floor changed.

    Of a pair that the rule refuses, the one with the stricter policy goes (its owner asked for it), else the younger.
    """
    left = by_device(standing)
    gone: list[Placement] = []
    for one in sorted(standing, key=_strictness):
        # Who stands on another device never refuses anybody.
        here = left[one.placement.node, one.placement.partition.device_id]
        walls: dict[Wall, list[Resident]] = {}
        for other in here:
            if other is not one:
                walls.setdefault(wall_between(one.placement, other.placement), []).append(other.resident)
        if isinstance(clear_all(one.resident, walls, floor), Refusal):
            here.remove(one)
            gone.append(one.placement)
    return gone


def by_device(standing: Iterable[Standing]) -> dict[tuple[str, str], list[Standing]]:
    """What stands on each (node, device), in the order given."""
    found: dict[tuple[str, str], list[Standing]] = {}
    for one in standing:
        found.setdefault((one.placement.node, one.placement.partition.device_id), []).append(one)
    return found


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
