"""The CPU as a device: cores by affinity, memory by the tightest limit."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from isolation.devices.cpu import cpu_device, memory_limit_bytes
from isolation.devices.inventory import inventory
from partywall.domain.fleet import DeviceKind

GIB = 1 << 30


def machine(root: Path, groups: str, limits: dict[str, str]) -> tuple[Path, Path]:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(groups)
    for file, text in limits.items():
        path = root / "cgroup" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root / "proc", root / "cgroup"


def test_the_cpu_gives_out_the_cores_this_process_may_run_on() -> None:
    device = cpu_device()
    assert device.kind is DeviceKind.CPU
    assert set(device.cores) == os.sched_getaffinity(0)
    assert device.compute_units == len(device.cores)
    assert 0 < device.memory_bytes <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert inventory(None) == (device,)


def test_fewer_cores_can_be_offered_but_none_that_are_not_ours() -> None:
    first = min(os.sched_getaffinity(0))
    assert cpu_device((first,)).cores == (first,)
    with pytest.raises(ValueError, match="9999"):
        cpu_device((9999,))


@pytest.mark.parametrize(
    ("groups", "limits", "expected"),
    [
        ("0::/a/b\n", {"memory.max": "max", "a/memory.max": str(GIB), "a/b/memory.max": "max"}, GIB),
        ("0::/a\n", {"a/memory.max": str(2 * GIB), "memory.max": str(GIB)}, GIB),
        ("4:memory:/x\n", {"memory/x/memory.limit_in_bytes": str(GIB)}, GIB),
        ("4:memory:/gone\n", {"memory/memory.limit_in_bytes": str(GIB)}, GIB),
        ("4:memory:/x\n", {"memory/x/memory.limit_in_bytes": str((1 << 63) - 4096)}, None),
        ("3:cpuset:/x\n", {"x/memory.max": str(GIB)}, None),
        ("", {}, None),
    ],
    ids=["v2 parent", "v2 tightest", "v1", "v1 inside a container", "v1 unlimited", "no memory group", "no groups"],
)
def test_memory_is_the_tightest_limit(
    tmp_path: Path, groups: str, limits: dict[str, str], expected: int | None
) -> None:
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    proc, mount = machine(tmp_path, groups, limits)
    assert memory_limit_bytes(proc, mount) == (expected or physical)
