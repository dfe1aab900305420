"""Which runs make a profile, by the kind of device and the time there is."""

from __future__ import annotations

from collections.abc import Sequence

from isolation.interference.profiler import ProfilePlan
from isolation.interference.rounds import FULL, QUICK, Pace
from partywall.domain.fleet import Device, DeviceKind, PartitionKind
from partywall.domain.profiles import ProbeSetting, Resource
from partywall.errors import InvalidInput

MAX_ROWS = 64
"""Solo latencies are measured up to this batch, unless the co-runs ask for more."""
_CPU = (Resource.MEMORY_BANDWIDTH, Resource.LLC, Resource.RANDOM)
_GPU = (Resource.DRAM, Resource.RANDOM, Resource.L2, Resource.POWER, Resource.LAUNCH, Resource.PCIE)
PROBES = tuple(ProbeSetting(r) for r in dict.fromkeys((*_CPU, *_GPU)))
"""Flat out: what every full profile has at all pairs of shares."""
_QUARTERS = (25, 50, 75, 100)
_LOW_LEVEL = 0.4


def plan_for(
    device: Device, *, max_batch: int, rows: int = 1, shares: Sequence[int] = (), quick: bool = False
) -> ProfilePlan:
    """The plan for a device.

    Args:
        device: Where the version will be measured.
        max_batch: Rows that one batch may have; 0: batches are not told apart.
        rows: Batch of the co-runs.
        shares: In percent; empty: what the device can give out.
        quick: The fewest runs that make a profile, for a first guess and for tests.

    Raises:
        InvalidInput: A share is not 1 to 100, or `rows` is more than a batch may have.
    """
    if any(not 0 < s <= 100 for s in shares):
        raise InvalidInput(f"shares must be 1 to 100 percent, got {list(shares)}", fields={"field": "shares"})
    if rows < 1 or rows > max(max_batch, 1):
        raise InvalidInput(f"batch must be 1 to {max(max_batch, 1)}, got {rows}", fields={"field": "batch"})
    cpu = device.kind is DeviceKind.CPU
    offered = core_shares(device.compute_units) if cpu else _QUARTERS
    if not cpu and device.kinds and PartitionKind.MPS not in device.kinds:
        # Without MPS nothing stands beside anything: what can be measured is the model alone.
        offered = (100,)
    chosen = tuple(sorted(set(shares))) or (_few(offered) if quick else offered)
    resources = _CPU if cpu else _GPU
    if quick:
        probes = tuple(ProbeSetting(r) for r in resources[:2])
        return ProfilePlan(probes, chosen, tuple(sorted({1, rows})), rows, probe_self=True)
    full = tuple(ProbeSetting(r) for r in resources)
    low = tuple(ProbeSetting(r, _LOW_LEVEL) for r in resources[:2])
    return ProfilePlan(full, chosen, batch_sizes(max_batch, rows), rows, more_probes=low, probe_self=True)


def pace_for(*, quick: bool) -> Pace:
    """How long the runs of a plan are."""
    return QUICK if quick else FULL


def core_shares(cores: int) -> tuple[int, ...]:
    """Shares of a CPU in percent that differ by whole cores: at most four, about the quarters."""
    counts = sorted({max(1, round(cores * quarter / 4)) for quarter in (1, 2, 3, 4)})
    return tuple(round(100 * count / cores) for count in counts)


def batch_sizes(max_batch: int, rows: int) -> tuple[int, ...]:
    """One, four, sixteen, ... up to the limit, and the limit itself while it is moderate."""
    limit = max(1, min(max_batch, MAX_ROWS))
    sizes = {4**k for k in range(4) if 4**k <= limit} | {limit, rows}
    return tuple(sorted(sizes))


def _few(shares: tuple[int, ...]) -> tuple[int, ...]:
    """Half and all of the device."""
    half = min(shares, key=lambda s: abs(s - 50))
    return tuple(sorted({half, max(shares)}))
