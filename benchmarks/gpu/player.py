"""A worker behind a confinement, for the checks: CUDA, what it sees of itself, then batches on request.

python -m benchmarks.gpu.player CONFINEMENT [--cap BYTES] [--sandbox WHICH]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

from isolation import sandbox
from isolation.partition.confine import confine_self
from isolation.partition.partitioner import WorkerConfinement
from isolation.sandbox.landlock import ruleset_for_abi
from partywall.domain.fleet import DeviceKind

PROBE_STEP_BYTES = 256 << 20
SANDBOXES = ("all", "landlock", "not-dumpable")


def play(confinement: WorkerConfinement, cap_bytes: int, walls: str) -> None:
    """A worker's life: confinement, torch, sandbox, CUDA; ends with standard input."""
    confine_self(confinement)
    import torch

    layers = wall_in(walls) if walls else {}
    # A context, so that the daemon counts this process: asking for properties alone need not make one.
    torch.zeros(1, device="cuda")
    torch.cuda.synchronize()
    properties = torch.cuda.get_device_properties(0)
    got_bytes, refused = probe(torch, cap_bytes) if cap_bytes else (None, None)
    tell(
        multiprocessors=properties.multi_processor_count,
        device_uuid=f"GPU-{str(properties.uuid).removeprefix('GPU-')}",
        device_memory_bytes=got_bytes,
        probe_refused=refused,
        layers=layers,
    )
    torch.cuda.empty_cache()
    for line in sys.stdin:
        try:
            tell(latencies_ms=multiply(torch, json.loads(line)["seconds"]))
        except RuntimeError as error:
            tell(error=str(error)[:300])


def wall_in(walls: str) -> dict[str, str]:
    """The worker's sandbox, or one layer of it: which of them CUDA cannot live with is told apart that way."""
    kernel = sandbox.LinuxKernel()
    policy = sandbox.system_policy(DeviceKind.GPU, os.environ)
    if walls == "landlock":
        kernel.set_no_new_privs()
        kernel.landlock_restrict(ruleset_for_abi(kernel.landlock_abi(), policy.read_paths, policy.write_paths))
        return {"landlock": "alone"}
    if walls == "not-dumpable":
        kernel.set_not_dumpable()
        return {"not_dumpable": "alone"}
    return {str(one.layer): one.detail for one in sandbox.apply(policy, kernel)}


def probe(torch: Any, cap_bytes: int) -> tuple[int, bool]:
    """Takes memory in steps until it is refused, or until clearly more than the cap was granted."""
    held: list[Any] = []
    try:
        while len(held) * PROBE_STEP_BYTES <= cap_bytes * 3 // 2:
            held.append(torch.empty(PROBE_STEP_BYTES, dtype=torch.uint8, device="cuda"))
    except torch.cuda.OutOfMemoryError:
        return len(held) * PROBE_STEP_BYTES, True
    return len(held) * PROBE_STEP_BYTES, False


def multiply(torch: Any, seconds: float) -> list[float]:
    """Milliseconds of each product; the first, which sets libraries up, does not count."""
    matrix = torch.randn(4096, 4096, device="cuda", dtype=torch.float16)
    torch.mm(matrix, matrix)
    torch.cuda.synchronize()
    latencies_ms = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        begun = time.perf_counter()
        torch.mm(matrix, matrix)
        torch.cuda.synchronize()
        latencies_ms.append(round((time.perf_counter() - begun) * 1000, 4))
    return latencies_ms


def tell(**message: Any) -> None:
    print(json.dumps(message), flush=True)


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("confinement", help="a WorkerConfinement as JSON")
    parser.add_argument("--cap", type=int, default=0, help="probe memory against this many bytes")
    parser.add_argument("--sandbox", choices=SANDBOXES, default="")
    options = parser.parse_args(given)
    play(WorkerConfinement(**json.loads(options.confinement)), options.cap, options.sandbox)


if __name__ == "__main__":
    main()
