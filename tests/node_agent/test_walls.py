"""No traffic behind a wall that does not stand."""

from __future__ import annotations

import pytest

from node_agent.walls import attest
from partywall.domain.fleet import Device, DeviceKind, Partition, PartitionKind
from partywall.errors import Unsupported

CPU = Device("cpu0", DeviceKind.CPU, "CPU", 1 << 30, 4, (0, 1, 2, 3))
GPU = Device("GPU-1", DeviceKind.GPU, "H100", 80 << 30, 132)
CPUSET = Partition("p", PartitionKind.CPUSET, "cpu0", (1,), 25)
CAPPED = Partition("p", PartitionKind.CPUSET, "cpu0", (1,), 25, 1 << 29)
WHOLE = Partition("p", PartitionKind.WHOLE, "cpu0")
WHOLE_GPU = Partition("p", PartitionKind.WHOLE, "GPU-1")

CASES = {
    "cpuset stands": (CPU, CPUSET, {"cores": "1", "threads": "1"}, True),
    "wrong core": (CPU, CPUSET, {"cores": "0,1", "threads": "1"}, False),
    "too many threads": (CPU, CPUSET, {"cores": "1", "threads": "4"}, False),
    "nothing seen": (CPU, CPUSET, {}, False),
    "cap missing": (CPU, CAPPED, {"cores": "1", "threads": "1", "memory_cap_bytes": "0"}, False),
    "cap stands": (CPU, CAPPED, {"cores": "1", "threads": "1", "memory_cap_bytes": "999999999"}, True),
    "whole stands": (CPU, WHOLE, {"cores": "0,1,2,3", "threads": "4"}, True),
    "whole is less": (CPU, WHOLE, {"cores": "0,1", "threads": "2"}, False),
    "gpu stands": (GPU, WHOLE_GPU, {"cuda_devices": "GPU-1"}, True),
    "another gpu": (GPU, WHOLE_GPU, {"cuda_devices": "GPU-2"}, False),
}


@pytest.mark.parametrize("name", CASES)
def test_attestation(name: str) -> None:
    device, partition, seen, ok = CASES[name]
    answer = attest(device, partition, 1, seen)
    assert answer.ok is ok
    assert bool(answer.reasons) is not ok
    assert answer.wall


def test_kinds_that_are_not_enforced_here() -> None:
    with pytest.raises(Unsupported):
        attest(GPU, Partition("p", PartitionKind.MPS, "GPU-1"), 1, {})
