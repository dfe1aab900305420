"""What a replica's batches would have taken alone, by its profile."""

from __future__ import annotations

from collections.abc import Mapping

from partywall.domain.fleet import Device, PartitionKind
from partywall.domain.placements import Placement
from partywall.domain.profiles import Profile


def share_of(placement: Placement, device: Device) -> int:
    """Percent of the device's compute that a placement has."""
    partition = placement.partition
    if partition.kind is PartitionKind.CPUSET and device.compute_units:
        return max(1, min(100, round(100 * len(partition.cores) / device.compute_units)))
    return partition.share_percent or 100


def solo_ratio(
    taken: Mapping[int, tuple[float, float]], profile: Profile | None, share: int, least_batches: float
) -> float | None:
    """Seconds the batches took / seconds they take alone by the profile; None where too few ran."""
    if profile is None or sum(count for count, _ in taken.values()) < least_batches:
        return None
    alone_s = 0.0
    for rows, (count, _) in taken.items():
        solo_ms = profile.solo_of(rows, share)
        if solo_ms is None:
            return None
        alone_s += count * solo_ms / 1e3
    return sum(seconds for _, seconds in taken.values()) / alone_s


def rows_factor(taken: Mapping[int, tuple[float, float]], profile: Profile | None, share: int) -> float | None:
    """Mean solo time of the batches that ran / solo time of one row; None where none ran or it was not measured."""
    one_ms = profile.solo_of(1, share) if profile is not None else None
    batches = sum(count for count, _ in taken.values())
    if profile is None or one_ms is None or not batches:
        return None
    total_ms = sum(count * (profile.solo_of(rows, share) or one_ms) for rows, (count, _) in taken.items())
    return total_ms / batches / one_ms


def solos_s(profile: Profile, share: int) -> dict[int, float]:
    """Seconds of a batch alone by rows, for every size that was measured near this share."""
    sizes = {rows for rows, _ in profile.solo_at_ms} or {profile.batch}
    found = {rows: profile.solo_of(rows, share) for rows in sizes}
    return {rows: ms / 1e3 for rows, ms in found.items() if ms is not None}


def version_name(model_id: str, version: int) -> str:
    """How predictions name a version."""
    return f"{model_id}:{version}"
