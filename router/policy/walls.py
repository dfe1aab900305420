"""Trust as the fleet planner sees it: a number per wall; only models behind equal walls may share a device.

The planner places MPS and CPU shares of whole devices, which are no wall across trust groups, so a tenant that asks for
hardware gets a device of its own here (a MIG instance of its own comes from `slicing`).
"""

from __future__ import annotations

from collections.abc import Sequence

from partywall.domain.tenants import Quota, TrustPolicy

_STRICTNESS = tuple(TrustPolicy)
"""Strictest first."""


def wall_name(tenant_id: str, quota: Quota, floor: TrustPolicy = TrustPolicy.SHARED) -> str:
    """Who stands behind the same wall: the tenant alone, or its group. `floor` is the operator's least strictness."""
    policy = min(quota.trust_policy, floor, key=_STRICTNESS.index)
    if policy in (TrustPolicy.EXCLUSIVE, TrustPolicy.HARDWARE):
        return f"tenant {tenant_id}"
    return f"group {quota.trust_group}"


def wall_numbers(tenants: Sequence[tuple[str, Quota]], floor: TrustPolicy = TrustPolicy.SHARED) -> list[int]:
    """A number per tenant, equal for those that may share a device; the same input gives the same numbers."""
    known: dict[str, int] = {}
    return [known.setdefault(wall_name(tenant, quota, floor), len(known)) for tenant, quota in tenants]
