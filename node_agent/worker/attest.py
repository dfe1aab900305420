"""What a worker sees of its own walls, read back from the kernel rather than remembered."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Sequence
from typing import Any

from isolation.sandbox import LayerState
from partywall.domain.fleet import DeviceKind, Partition

PROBE_BYTES = 256 << 20
"""How far over the cap the allocation probe asks."""


def attest(partition: Partition, device_kind: DeviceKind, layers: Sequence[LayerState]) -> dict[str, str]:
    """Cores, threads, memory cap and sandbox layers, as text for `WorkerReady.attested`.

    Keys: `partition`, `device`, `cores` (comma-separated), `threads`, `memory_cap_bytes` (RLIMIT_DATA, 0: none),
    `uid`, `cuda_devices`, and `sandbox.<layer>` with "yes", "abi N" or "no: why". On a GPU also `multiprocessors`,
    `device_uuid` and, under a memory cap, `probe_refused` ("yes": more than the cap was not to be had).
    """
    torch = sys.modules.get("torch")
    limit = resource.getrlimit(resource.RLIMIT_DATA)[1]
    seen = {
        "partition": partition.id,
        "device": device_kind.value,
        "cores": ",".join(map(str, sorted(os.sched_getaffinity(0)))),
        "threads": str(torch.get_num_threads() if torch is not None else os.environ.get("OMP_NUM_THREADS", "1")),
        "memory_cap_bytes": "0" if limit == resource.RLIM_INFINITY else str(limit),
        "uid": str(os.getuid()),
        "cuda_devices": os.environ.get("CUDA_VISIBLE_DEVICES", ""),
    }
    if device_kind is DeviceKind.GPU and torch is not None:
        seen.update(_device_facts(torch, partition))
    seen.update({f"sandbox.{s.layer}": s.detail if s.active else f"no: {s.detail}" for s in layers})
    return seen


def _device_facts(torch: Any, partition: Partition) -> dict[str, str]:
    """What CUDA shows once it is initialised; empty where it cannot be: the attestation then says what is missing."""
    try:
        # With a context the MPS daemon counts this process among its clients; asking for properties need not make one.
        torch.zeros(1, device="cuda:0")
        torch.cuda.synchronize()
        properties = torch.cuda.get_device_properties(0)
        facts = {"multiprocessors": str(properties.multi_processor_count), "device_uuid": _uuid(properties)}
        if partition.memory_bytes:
            facts["probe_refused"] = "yes" if _refuses(torch, partition.memory_bytes + PROBE_BYTES) else "no"
    except (RuntimeError, AssertionError, AttributeError) as failure:
        return {"device_error": str(failure)[:200]}
    return facts


def _uuid(properties: Any) -> str:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    # CUDA tells a MIG instance's parent; the instance is what made it visible.
    return visible if visible.startswith("MIG-") else f"GPU-{str(properties.uuid).removeprefix('GPU-')}"


def _refuses(torch: Any, size: int) -> bool:
    try:
        block = torch.empty(size, dtype=torch.uint8, device="cuda:0")
    except torch.OutOfMemoryError:
        return True
    del block
    torch.cuda.empty_cache()
    return False
