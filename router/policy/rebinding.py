"""Late binding inside a pool: a promise that has not begun may change its device as long as its deadline holds.

Two occasions. A request fits nowhere: one waiting batch of another model goes to another of its replicas and leaves its
place (one step of an augmenting path, Kuhn 1955, over requests and devices). A device has nothing to do: it takes the
first batch that it can begin now and would end earlier than where it waits. Nobody's deadline is moved. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from router.policy.promises import NEVER, PlannedBatch
from router.policy.schedule import DeviceSchedule

MOST_LOOKED_AT = 32
"""Waiting batches of one device that are tried for a move."""


def make_room(
    now: float, asked: PlannedBatch, hosts: Iterable[DeviceSchedule], replicas: Sequence[Sequence[DeviceSchedule]]
) -> tuple[DeviceSchedule, DeviceSchedule] | None:
    """Places `asked` on one of its hosts where a waiting batch makes room; (its device, the one that helped)."""
    for host in hosts:
        for position, batch in enumerate(host.queue[:MOST_LOOKED_AT]):
            others = replicas[batch.model]
            if batch.model == asked.model or len(others) < 2 or host not in others:
                continue
            host.give(now, batch)
            if host.adopt(now, asked):
                for other in others:
                    if other is not host and other.adopt(now, batch):
                        return host, other
                host.give(now, asked)
            host.restore(now, position, batch)
    return None


def pull(now: float, idle: DeviceSchedule, others: Iterable[DeviceSchedule]) -> DeviceSchedule | None:
    """Moves a waiting batch to a device without work, off the device that has most; answers that one."""
    ready_s = idle.ready_s
    donor: DeviceSchedule | None = None
    chosen: PlannedBatch | None = None
    for other in others:
        if not other.queue or other is idle or (donor is not None and other.tail_s <= donor.tail_s):
            continue
        for batch in other.queue:
            if ready_s.get(batch.model, NEVER) <= now and now + batch.service_s < batch.end_s:
                donor, chosen = other, batch
                break
    if donor is None or chosen is None:
        return None
    donor.give(now, chosen)
    idle.adopt(now, chosen)
    return donor
