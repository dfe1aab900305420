"""What a simulated GPU is like, and the instances that stand on it."""

from __future__ import annotations

from dataclasses import dataclass, field

from isolation.devices.facts import (
    GpuInstance,
    MigDevice,
)


@dataclass(frozen=True, slots=True)
class GpuTraits:
    """What differs between cards and drivers.

    Attributes:
        mig_capable: Consumer cards have no MIG.
        needs_reset: A mode change waits for a reset nobody but the operator makes (pass-through virtual machines).
        lists_profiles_while_off: Drivers of the 535 family list none while MIG is off; 580 does.
        power_limit_mw: Enforced limit.
    """

    mig_capable: bool = True
    needs_reset: bool = False
    lists_profiles_while_off: bool = True
    power_limit_mw: int = 700_000


@dataclass(slots=True)
class SimulatedInstance:
    info: GpuInstance
    compute: dict[int, MigDevice] = field(default_factory=dict)
    handles: int = 0
    leaks: int = 0
