"""What a cpuset wall is worth: a victim's p95 beside a saturating neighbour, with walls and without.

Two victims and two neighbours run all the time, one pair inside cpuset partitions and one pair free; a round measures
each victim alone and beside its neighbour, in random order. Slow-down is p95 beside the neighbour over p95 alone *in
the same setting and round*; the verdict is on the median over rounds.

What else runs on the machine is noise of neither pair: before each measurement the machine is given time to become
quiet, and one during which strangers used more than `QUIET_CORES` of a core is made again; the report
says how many were.

    python benchmarks/walls.py [--rounds 7] [--seconds 1.5] [--seed 1] [--patience 120] [--out docs/results/walls]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.walling.member import Member
from benchmarks.walling.page import as_page, report
from benchmarks.walling.rounds import rounds_of
from isolation.devices.cpu import cpu_device
from isolation.partition.cpuset import CpusetPartitioner
from isolation.partition.partitioner import Observation
from partywall.domain.fleet import Partition, PartitionKind


@contextmanager
def cast(partitioner: CpusetPartitioner, victim: Partition, neighbour: Partition) -> Iterator[dict[str, Member]]:
    """All four members; the two inside walls are attested before anything is measured."""
    members: dict[str, Member] = {}
    try:
        for role, partition in (("victim", victim), ("neighbour", neighbour)):
            member = members[f"walled {role}"] = Member(role, partitioner.prepare(partition))
            observed = Observation(**member.observed | {"cores": tuple(member.observed["cores"])})
            verdict = partitioner.attest(partition, observed)
            if not verdict.ok:
                raise RuntimeError(f"{role}: {verdict.reasons}")
            print(f"{role}: {verdict.wall}", file=sys.stderr)
            members[f"free {role}"] = Member(role, None)
        yield members
    finally:
        for member in members.values():
            member.end()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.5)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--patience", type=float, default=120.0, help="seconds for the machine to be quiet, in all")
    parser.add_argument("--out", type=Path, default=None, help="writes OUT.json and OUT.md")
    arguments = parser.parse_args()
    device = cpu_device()
    if len(device.cores) < 2:
        print("a wall between two neighbours needs two cores", file=sys.stderr)
        return 2
    half = len(device.cores) // 2
    victim = Partition("victim", PartitionKind.CPUSET, device.id, device.cores[:half])
    neighbour = Partition("neighbour", PartitionKind.CPUSET, device.id, device.cores[half:])
    rng = random.Random(arguments.seed)
    load_before = os.getloadavg()[0]
    print(f"seed {arguments.seed}, load {load_before:.2f}", file=sys.stderr)
    with cast(CpusetPartitioner(device), victim, neighbour) as members:
        calm, disturbed = rounds_of(members, arguments.rounds, arguments.seconds, rng, arguments.patience)
    result = report(calm, disturbed, arguments.rounds, load_before, arguments.seed, arguments.seconds)
    page = as_page(result)
    print(page)
    if arguments.out:
        arguments.out.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
        arguments.out.with_suffix(".md").write_text(page)
    return 0 if result["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
