"""How long one placement takes, by the size of the fleet: it grows with the fleet, not with its square.

    python benchmarks/placing.py [--devices 100,200,400,800]

A synthetic fleet: CPU devices of 16 cores, four tenants' models on each, eight trust groups, nothing profiled. Prints
milliseconds of CPU for one replica, the median of seven; the last line is one JSON object.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import statistics
import time
from typing import Any

from isolation.trust import Resident
from partywall.domain.fleet import Device, DeviceKind, Partition, PartitionKind
from partywall.domain.placements import Placement
from partywall.domain.tenants import TrustPolicy
from router.policy.placement import NodeView, Operator, Standing, Want, place, to_move

CORES, EACH, GIB = 16, 4, 1 << 30
ROUNDS = 7


def fleet(devices: int, seed: int) -> tuple[list[NodeView], list[Standing]]:
    """Nodes of one device each, with what stands on them."""
    rng = random.Random(seed)
    nodes = [
        NodeView(f"n{at}", (Device("cpu", DeviceKind.CPU, "CPU", 64 * GIB, CORES, tuple(range(CORES))),))
        for at in range(devices)
    ]
    standing = []
    for at, one in itertools.product(range(devices), range(EACH)):
        number = at * EACH + one
        tenant = f"t{number}"
        partition = Partition(f"part{number}", PartitionKind.CPUSET, "cpu", (4 * one, 4 * one + 1), 12, 0)
        placed = Placement(
            f"p{number}", tenant, f"m{number}", 1, f"n{at}", partition, f"w{number}", GIB, number, "", "", False
        )
        policy = rng.choice((TrustPolicy.PROCESS, TrustPolicy.SHARED))
        standing.append(Standing(placed, Resident(tenant, policy, f"g{rng.randrange(8)}")))
    return nodes, standing


def measure(devices: int, seed: int = 0) -> dict[str, Any]:
    """CPU milliseconds of `place` and of `to_move` on a fleet of so many devices."""
    nodes, standing = fleet(devices, seed)
    want = Want(Resident("new", TrustPolicy.PROCESS, "g0"), "model", 1, GIB, GIB)
    ids = itertools.count()
    took: dict[str, list[float]] = {"place_ms": [], "to_move_ms": []}
    for _ in range(ROUNDS):
        before = time.process_time()
        place(want, nodes, standing, Operator(), lambda prefix: f"{prefix}{next(ids)}")
        between = time.process_time()
        to_move(standing, TrustPolicy.SHARED)
        took["place_ms"].append((between - before) * 1e3)
        took["to_move_ms"].append((time.process_time() - between) * 1e3)
    return {
        "devices": devices,
        "standing": len(standing),
        **{k: round(statistics.median(v), 3) for k, v in took.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", default="100,200,400,800", help="fleet sizes, commas")
    rows = [measure(int(size)) for size in parser.parse_args().devices.split(",")]
    for row in rows:
        print(f"{row['devices']:6d} devices {row['standing']:6d} replicas  place {row['place_ms']:8.2f} ms  "
              f"trust of all {row['to_move_ms']:8.2f} ms")  # fmt: skip
    print(json.dumps({"placing": rows}))


if __name__ == "__main__":
    main()
