"""What tests of placement ask for, and where: a device of cores, and a tenant's want."""

from __future__ import annotations

from hypothesis import strategies as st
from sharing_world import GIB

from isolation.trust import Resident
from partywall.domain.fleet import Device, DeviceKind
from partywall.domain.tenants import TrustPolicy
from router.policy.placement import Want

TENANTS = st.tuples(st.sampled_from("abcd"), st.integers(0, 100), st.integers(1, 4))
"""Of a want: whose, the share in percent, the memory in GiB."""


def cpu(cores: int = 4, memory: int = 8 * GIB, name: str = "cpu0") -> Device:
    return Device(name, DeviceKind.CPU, "CPU", memory, cores, tuple(range(cores)))


def want(tenant: str = "a", policy: TrustPolicy = TrustPolicy.PROCESS, group: str = "g", **more: object) -> Want:
    values: dict[str, object] = {"memory_bytes": GIB, "weights_bytes": 90 << 20, **more}
    return Want(Resident(tenant, policy, group), f"model-{tenant}", 1, **values)  # type: ignore[arg-type]
