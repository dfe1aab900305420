"""What a worker sees of its own walls, read back from the kernel rather than remembered."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Sequence

from isolation.sandbox import LayerState
from partywall.domain.fleet import DeviceKind, Partition


def attest(partition: Partition, device_kind: DeviceKind, layers: Sequence[LayerState]) -> dict[str, str]:
    """Cores, threads, memory cap and sandbox layers, as text for `WorkerReady.attested`.

    Keys: `partition`, `device`, `cores` (comma-separated), `threads`, `memory_cap_bytes` (RLIMIT_DATA, 0: none),
    `uid`, `cuda_devices`, and `sandbox.<layer>` with "yes", "abi N" or "no: why".
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
    seen.update({f"sandbox.{s.layer}": s.detail if s.active else f"no: {s.detail}" for s in layers})
    return seen
