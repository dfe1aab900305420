"""What is only read from the driver: inventory, counters, MIG."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.findings import Finding
from partywall.errors import Unsupported


def check_counters(bench: Bench) -> Iterator[Finding]:
    """GPM under this user."""
    try:
        counters = bench.library.open_counters(bench.gpu.uuid)
    except Unsupported as error:
        yield Finding("GPM counters", None, error.message)
        return
    try:
        time.sleep(0.3)  # the counters' own interval
        reading = counters.read()
    finally:
        counters.close()
    values = {counter.name.lower(): value for counter, value in reading.values.items()}
    yield Finding("GPM counters", bool(values), f"{len(values)} counters as uid {os.getuid()}", values)


def check_mig_reads(bench: Bench) -> Iterator[Finding]:
    """Profiles and placements against our geometry; nothing is changed."""
    if not bench.gpu.mig_capable:
        yield Finding("MIG profiles", None, "this GPU has no MIG")
        return
    mode = bench.library.mig_mode(bench.gpu.uuid)
    yield Finding("MIG mode read", True, f"current {mode.current}, pending {mode.pending}")
    profiles = bench.library.mig_profiles(bench.gpu.uuid)
    seen = ", ".join(f"{p.name}: enum {p.enum}, id {p.id}, {p.multiprocessors} SMs" for p in profiles)
    wrong = [p.name for p in profiles if {0: 19, 1: 14, 2: 9, 3: 5, 4: 0, 9: 15}.get(p.enum, p.id) != p.id]
    yield Finding("MIG profiles have the ids of our table", not wrong and bool(profiles), seen, {"wrong": wrong})


def check_driver(bench: Bench) -> Iterator[Finding]:
    """Inventory, memory, power and processes, with a worker on the GPU."""
    gpu = bench.gpu
    facts = f"{gpu.name}, {gpu.multiprocessors} SMs, {gpu.memory_bytes >> 20} MiB, {gpu.compute_capability}"
    with bench.worker(bench.part("seen", 50)) as worker:
        worker.compute(bench.seconds / 8)
        worker.latencies_ms()
        memory, power = bench.library.memory(gpu.uuid), bench.library.power(gpu.uuid)
        listed = {one.pid: one.kind.value for one in bench.library.processes(gpu.uuid)}
    plausible = 0 < memory.used_bytes < memory.total_bytes and power.draw_mw > 0 and gpu.multiprocessors > 0
    seen = f"{facts}; {memory.used_bytes >> 20} MiB used; {power.draw_mw} of {power.limit_mw} mW; processes {listed}"
    yield Finding("driver: inventory, memory, power", plausible, seen)
    yield Finding("driver lists the worker as an MPS client", listed.get(worker.pid) == "mps", str(listed))
