"""The agent's whole road on a real NVIDIA GPU: serving in shares, a resize under load, a killed worker, zygote starts.

Needs a GPU with its driver, the MPS control daemon and torch with CUDA. Each check stands by itself: one that fails or
is not possible here is named so, and the others go on. `--simulate h100` runs the same checks over a simulated GPU
(models on the CPU): that tries this file, not a GPU, and the page says so. Writes OUT.json and OUT.md after each check.

    python benchmarks/gpu_live.py [--seconds 4] [--simulate MODEL] [--out docs/results/gpu-live]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from benchmarks.gpu.daemon import own_daemon
from benchmarks.gpu.findings import Finding, Report, end_by_signal, guarded
from benchmarks.gpu.live import (
    Live,
    instance,
    load,
)
from isolation.devices.cpu import cpu_device
from isolation.devices.nvml import open_nvml
from isolation.partition.assembly import MPS_BINARY
from isolation.partition.cpuset import CpusetPartitioner
from isolation.partition.mps import MpsPartitioner
from isolation.partition.partitioner import Partitioner
from node_agent.zygote.client import ZygoteClient
from partywall.domain.fleet import Device, DeviceKind, Partition, PartitionKind

UNDISTURBED = 1.25
"""How much the neighbour's p99 may grow while a worker is killed in the middle of its batches."""
READY_S, EIGHT_S = 0.4, 1.5
STARTS, AT_ONCE = 7, 8
SETTLE_S = 120.0


def check_shares(live: Live, expected: dict[str, int]) -> Finding:
    """Both tenants served behind the shares they asked for, and every wall attested."""
    name = f"served and attested at {'/'.join(str(s) for s in expected.values())}"
    for tenant in expected:
        with load(live, tenant) as seen:
            time.sleep(min(1.0, live.seconds))
        if seen.failures or not seen.latencies_ms:
            return Finding(name, False, f"{tenant}: {seen.failures[:1] or 'no answers'}")
    answer = live.json("fleet", "attest")
    walls = "; ".join(one["wall"] for one in answer["replicas"])
    kinds = {row["kind"] for row in live.json("partitions", "list")}
    ok = answer["ok"] and live.shares() == expected and kinds == {"mps"}
    return Finding(name, ok, walls, {"attestation": answer})


def check_resize(live: Live) -> Finding:
    """From 25/75 to 50/50 while both are under load: not one request fails."""
    with load(live, "one") as first, load(live, "two") as second:
        time.sleep(live.seconds / 2)
        live.resize("two", 50)
        live.resize("one", 50)
        time.sleep(live.seconds / 2)
    failures = first.failures + second.failures
    done = len(first.latencies_ms) + len(second.latencies_ms)
    seen = f"{done} requests answered, {len(failures)} failed {failures[:1] or ''}"
    return Finding("resized under load without a failed request", not failures and done > 0, seen)


def check_kill(live: Live) -> Finding:
    """kill -9 of a worker in the middle of its batches: the neighbour's p99, and the worker's return."""
    pid = live.pid("two")
    with load(live, "one") as before, load(live, "two"):
        time.sleep(live.seconds)
    with load(live, "one") as during, load(live, "two"):
        time.sleep(live.seconds / 4)
        os.kill(pid, signal.SIGKILL)
        time.sleep(live.seconds * 3 / 4)
    limit_s = time.monotonic() + SETTLE_S
    back = False
    while not back and time.monotonic() < limit_s:
        try:
            back = live.pid("two") != pid
        except StopIteration:
            time.sleep(0.2)
    calm = during.p99_ms <= before.p99_ms * UNDISTURBED and not during.failures
    returned = "came back" if back else "did not come back"
    seen = f"neighbour's p99 {before.p99_ms:.2f} ms, then {during.p99_ms:.2f} ms; the worker {returned}"
    data = {"p99_before_ms": before.p99_ms, "p99_during_ms": during.p99_ms, "failures": during.failures[:3]}
    return Finding("a worker killed mid-batch leaves its neighbour undisturbed", calm and back, seen, data)


def check_zygote(folder: Path, simulated: bool) -> Finding:
    """Time from the wish for a worker to its attested wall, one at a time and eight at once."""
    if simulated:
        device = cpu_device()
        one_s, eight_s = asyncio.run(_starts(device, CpusetPartitioner(device)))
    else:
        library = open_nvml()
        assert library is not None
        with library, own_daemon(library.gpus()[0].uuid, folder / "z") as control:
            gpu = library.gpus()[0]
            device = Device(gpu.uuid, DeviceKind.GPU, gpu.name, gpu.memory_bytes, gpu.multiprocessors)
            one_s, eight_s = asyncio.run(_starts(device, MpsPartitioner(device, control, library)))
    seen = f"ready in {one_s:.3f} s, {AT_ONCE} at once in {eight_s:.3f} s"
    ok = one_s <= READY_S and eight_s <= EIGHT_S
    return Finding("workers from the zygote", ok, seen, {"ready_s": one_s, "eight_at_once_s": eight_s})


async def _starts(device: Device, partitioner: Partitioner) -> tuple[float, float]:
    client = ZygoteClient()

    async def one(name: str) -> float:
        if device.kind is DeviceKind.CPU:
            partition = Partition(name, PartitionKind.CPUSET, device.id, device.cores[:1])
        else:
            partition = Partition(name, PartitionKind.MPS, device.id, (), 100 // AT_ONCE)
        given = partitioner.prepare(partition)
        environment = {k: v for k, v in given.environment.items() if k.startswith("CUDA_")}
        begun = time.perf_counter()
        worker = await client.spawn(name, partition, device_kind=device.kind, environment=environment)
        took = time.perf_counter() - begun
        if device.kind is DeviceKind.GPU:
            sms = worker.attested.get("multiprocessors", worker.attested.get("device_error", "unknown"))
            assert sms != str(device.compute_units), f"the worker sees all {sms} SMs: it is not behind its daemon"
        return took

    try:
        await client.start()
        singles = []
        for index in range(STARTS):
            singles.append(await one(f"one-{index}"))
            await next(iter(client.workers.values())).stop(5.0)
        begun = time.perf_counter()
        await asyncio.gather(*(one(f"many-{index}") for index in range(AT_ONCE)))
        return statistics.median(singles), time.perf_counter() - begun
    finally:
        await client.close()


def findings(folder: Path, seconds: float, simulate: str) -> Iterator[Finding]:
    """All checks; whatever one of them raises is its finding."""
    yield from guarded("workers from the zygote", lambda: iter([check_zygote(folder, bool(simulate))]))
    yield from guarded("the instance", lambda: served(folder, seconds, simulate))


def served(folder: Path, seconds: float, simulate: str) -> Iterator[Finding]:
    """What needs a running instance."""
    checks: list[tuple[str, Callable[[Live], Finding]]] = [
        ("served at 25/75", lambda live: check_shares(live, {"one": 25, "two": 75})),
        ("resized under load", check_resize),
        ("served at 50/50", lambda live: check_shares(live, {"one": 50, "two": 50})),
        ("killed mid-batch", check_kill),
    ]
    try:
        with instance(folder, seconds, simulate) as live:
            for name, check in checks:
                yield from guarded(name, lambda one=check: iter([one(live)]))  # type: ignore[misc]
    except Exception as error:
        log = folder / "up.log"
        tail = log.read_text(errors="replace")[-4000:] if log.exists() else ""
        print(tail, file=sys.stderr)
        yield Finding("the instance", False, f"{type(error).__name__}: {error}", {"log": tail})


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=4.0, help="length of one load")
    parser.add_argument("--simulate", default="", metavar="MODEL", help="a simulated GPU: tries this file, not a GPU")
    parser.add_argument("--out", type=Path, default=None, help="writes OUT.json and OUT.md")
    arguments = parser.parse_args(given)
    end_by_signal()
    what = f"a SIMULATED {arguments.simulate}: no statement about any GPU"
    if not arguments.simulate:
        library = open_nvml()
        if library is None or not library.gpus():
            print("no NVIDIA GPU on this machine; nothing was checked and nothing written", file=sys.stderr)
            return 2
        what = library.gpus()[0].name
        library.close()
        if shutil.which(MPS_BINARY) is None:
            print(f"{MPS_BINARY} is not installed; shares need it", file=sys.stderr)
            return 2
    report = Report(
        "The agent's road on a GPU", f"Made by `benchmarks/gpu_live.py` on {what}.", arguments.out, {"on": what}
    )
    with tempfile.TemporaryDirectory(prefix="pw") as folder:
        for finding in findings(Path(folder), arguments.seconds, arguments.simulate):
            report.add(finding)
    return report.status


if __name__ == "__main__":
    sys.exit(main())
