"""Tenants: who owns models, under which limits, and whom they trust beside them."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from datetime import datetime

from partywall.errors import InvalidInput

DEFAULT_TRUST_GROUP = "default"


class TenantState(enum.StrEnum):
    ACTIVE = "active"
    SUSPENDED = "suspended"


class TrustPolicy(enum.StrEnum):
    """What a tenant accepts beside itself, strictest first (DESIGN vocabulary).

    Across trust groups nothing but another device or a MIG instance is ever allowed, whatever the policy.
    """

    EXCLUSIVE = "exclusive"
    HARDWARE = "hardware"
    PROCESS = "process"
    SHARED = "shared"


@dataclass(frozen=True, slots=True)
class Quota:
    """Limits of one tenant; None is "no limit"."""

    requests_per_s: float | None = None
    burst: int | None = None
    max_in_flight: int | None = None
    model_bytes: int | None = None
    device_memory_bytes: int | None = None
    weight: float = 1.0
    trust_group: str = DEFAULT_TRUST_GROUP
    trust_policy: TrustPolicy = TrustPolicy.PROCESS

    def __post_init__(self) -> None:
        for name in ("requests_per_s", "burst", "max_in_flight", "model_bytes", "device_memory_bytes"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InvalidInput(f"quota.{name} must be above zero, got {value}", fields={"field": f"quota.{name}"})
        if not 0 < self.weight < float("inf"):
            raise InvalidInput(f"quota.weight must be above zero, got {self.weight}", fields={"field": "quota.weight"})

    @property
    def effective_burst(self) -> int:
        """Requests that may come at once: `burst`, or one second's worth."""
        if self.burst is not None:
            return self.burst
        return max(1, round(self.requests_per_s or 1))


@dataclass(frozen=True, slots=True)
class Tenant:
    """One tenant as stored; `id` never changes and is never reused."""

    id: str
    name: str
    created_at: datetime
    state: TenantState = TenantState.ACTIVE
    quota: Quota = field(default_factory=Quota)
    rev: int = 0


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A stored key: its digest, never the key."""

    id: str
    tenant_id: str
    digest: bytes
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    last_used_at: datetime | None = None
    rev: int = 0

    def live(self, now: datetime) -> bool:
        """Whether the key opens the door at `now`."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)
