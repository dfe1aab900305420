"""What a worker must have seen for its wall to be believed: pure comparisons, shared by the partitioners.

A CUDA process that cannot reach its MPS daemon runs without it and without an error, so a share is believed only when
the device looked as small as it should.
"""

from __future__ import annotations

from isolation.partition.partitioner import Observation

SMS_PER_TPC = 2
"""Shares are rounded to whole TPCs: 25, 50 and 75 % of an H100's 132 SMs show 32, 66 and 98 (measured)."""
PROBE_SLACK = 0.1
"""How far the allocation probe may get above the cap; the driver's own allocations count too."""


def share_multiprocessors(total: int, share_percent: int) -> int:
    """SMs that a client with this active-thread percentage sees: the share, down to a whole TPC, at least one TPC."""
    if share_percent >= 100:
        return total
    return max(SMS_PER_TPC, total * share_percent // 100 // SMS_PER_TPC * SMS_PER_TPC)


def check_multiprocessors(observed: Observation, expected: int, total: int, slack: int = SMS_PER_TPC) -> list[str]:
    """Reasons against the share; one TPC of rounding is allowed, the whole device under a share never."""
    seen = observed.multiprocessors
    if seen is None:
        return ["the worker could not read its number of SMs"]
    if expected < total and seen == total:
        return [f"sees all {total} SMs instead of {expected}: it is not attached to its MPS daemon"]
    return [] if abs(seen - expected) <= slack else [f"sees {seen} SMs instead of {expected}"]


def check_device(observed: Observation, uuid: str) -> list[str]:
    """Reasons against the device."""
    return [] if observed.device_uuid == uuid else [f"computes on {observed.device_uuid}, not on {uuid}"]


def check_memory_cap(observed: Observation, cap_bytes: int) -> list[str]:
    """Reasons against the cap, by the allocation probe: asking for more than the cap must have been refused."""
    if not cap_bytes:
        return []
    if observed.probe_refused is None:
        return [f"no allocation probe was made against the cap of {cap_bytes} bytes"]
    if not observed.probe_refused:
        return [f"an allocation above the cap of {cap_bytes} bytes was granted"]
    got = observed.device_memory_bytes
    if got is not None and got > cap_bytes * (1 + PROBE_SLACK):
        return [f"{got} bytes could be had under a cap of {cap_bytes}"]
    return []


def check_client(pid: int, clients: tuple[int, ...] | None) -> list[str]:
    """Reasons against the attachment; None: nobody could tell which clients there are."""
    if clients is None:
        return ["neither the MPS daemon nor the driver told its clients; ask again"]
    return [] if pid in clients else [f"pid {pid} is no client of the MPS daemon"]
