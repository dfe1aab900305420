"""The walls on a real NVIDIA GPU: MPS shares, memory caps, client lists, the sandbox, a killed neighbour, weights
parked and woken, counters, MIG read-only.

Needs a machine with a GPU, its driver and torch with CUDA; starts an MPS daemon of its own in a private folder, under
the user who runs it, and changes no setting of the GPU. Writes OUT.json and OUT.md after each check. What it cannot
check is listed in the page by name.

    python benchmarks/gpu_checks.py [--gpu 0] [--out docs/results/gpu]
    python benchmarks/gpu_checks.py --pending [--out docs/results/gpu]   the list of what no hardware has seen yet
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.gpu.bench import Bench, Worker, p99_ms
from benchmarks.gpu.daemon import own_daemon
from benchmarks.gpu.findings import Finding, Report, end_by_signal, guarded
from benchmarks.gpu.parking import COMMAND as PARKING
from benchmarks.gpu.parking import check_parking
from benchmarks.gpu.reads import check_counters, check_driver, check_mig_reads
from benchmarks.gpu_pending import NEVER, pending_page
from isolation.devices.facts import Gpu
from isolation.devices.library import GpuLibrary
from isolation.devices.nvml import open_nvml
from isolation.partition.mps import MpsPartitioner
from isolation.partition.mps_daemon import BINARY, NvidiaMpsControl
from partywall.domain.fleet import Device, DeviceKind
from partywall.errors import Unsupported

GIB = 1 << 30
MEMORY_CAP_BYTES = 4 * GIB
SOON_S = 5.0
UNDISTURBED = 1.25
"""How much the victim's p99 may grow while its neighbour is killed."""
CONTRACT_S = 120
SUITES = ("tests/isolation", "tests/node_agent/test_device_memory_contract.py")


def check_shares(bench: Bench) -> Iterator[Finding]:
    """Visible SMs and attachment at each share."""
    for share in (25, 50, 75, 100):
        partition = bench.part(f"share-{share}", share)
        with bench.worker(partition) as worker:
            verdict = bench.partitioner.attest(partition, worker.observed)
            sms = worker.observed.multiprocessors
            seen = f"{sms} of {bench.gpu.multiprocessors} SMs; {verdict.reasons or 'attested'}"
            yield Finding(f"MPS share {share} %", verdict.ok, seen, {"sms": sms})


def check_fall_through(bench: Bench) -> Iterator[Finding]:
    """A worker that misses its daemon must be found out."""
    partition = bench.part("fall-through", 25)
    with tempfile.TemporaryDirectory() as nowhere, bench.worker(partition, CUDA_MPS_PIPE_DIRECTORY=nowhere) as worker:
        verdict = bench.partitioner.attest(partition, worker.observed)
        yield Finding("a worker past its daemon is refused", not verdict.ok, "; ".join(verdict.reasons))


def check_memory_cap(bench: Bench) -> Iterator[Finding]:
    """Asking for more than the cap is refused, in that client only."""
    partition = bench.part("capped", 50, MEMORY_CAP_BYTES)
    with bench.worker(bench.part("neighbour", 50)) as neighbour, bench.worker(partition) as worker:
        verdict = bench.partitioner.attest(partition, worker.observed)
        neighbour.compute(bench.seconds / 8)
        alive = len(neighbour.latencies_ms()) > 0
        got_bytes = worker.observed.device_memory_bytes
        seen = f"{got_bytes} bytes under a cap of {MEMORY_CAP_BYTES}; {verdict.reasons or 'ok'}"
        yield Finding("memory cap refuses the overrun", verdict.ok and alive, seen)


def check_clients(bench: Bench) -> Iterator[Finding]:
    """Daemon and driver name the same clients; a terminated one is none."""
    partition = bench.part("client", 50)
    with bench.worker(partition) as worker:
        listed = bench.control.clients()
        strangers = bench.partitioner.strangers()
        yield Finding("client list names the worker", worker.pid in listed, f"clients {listed}, strangers {strangers}")
        bench.control.terminate_client(worker.pid)
        give_up_s = time.monotonic() + SOON_S
        while worker.pid in (left := bench.control.clients()) and time.monotonic() < give_up_s:
            time.sleep(0.1)
        # A process that stays on the list has lost its contexts all the same: its next work says so.
        worker.compute(0.1)
        try:
            said = f"still made {len(worker.latencies_ms())} products"
            ended = False
        except RuntimeError as error:
            said, ended = str(error), True
        gone = worker.pid not in left
        yield Finding("terminate_client ends the attachment", gone or ended, f"clients {left}; afterwards: {said}")


def check_sandbox(bench: Bench) -> Iterator[Finding]:
    """A worker behind the whole sandbox computes and is attested; if it cannot, which layer alone stops it."""
    partition = bench.part("walled", 50, MEMORY_CAP_BYTES)
    try:
        with bench.worker(partition, "all") as worker:
            verdict = bench.partitioner.attest(partition, worker.observed)
            worker.compute(bench.seconds / 8)
            done = len(worker.latencies_ms())
            seen = f"{done} products behind {worker.layers}; {verdict.reasons or 'attested'}"
            yield Finding("CUDA behind the sandbox", verdict.ok and done > 0, seen)
            return
    except (RuntimeError, TimeoutError) as error:
        yield Finding("CUDA behind the sandbox", False, str(error))
    for layer in ("landlock", "not-dumpable"):
        yield from guarded(f"CUDA behind {layer} alone", lambda one=layer: check_layer(bench, one))  # type: ignore[misc]


def check_layer(bench: Bench, layer: str) -> Iterator[Finding]:
    with bench.worker(bench.part(layer, 50), layer) as worker:
        worker.compute(0.2)
        yield Finding(f"CUDA behind {layer} alone", len(worker.latencies_ms()) > 0, "computes")


def check_killed_neighbour(bench: Bench) -> Iterator[Finding]:
    """kill -9 of a computing neighbour, without terminate_client: the worst that an operator can do."""
    victim_part, neighbour_part = bench.part("victim", 50), bench.part("offender", 50)
    with bench.worker(victim_part) as victim:
        neighbour = Worker(bench.partitioner.prepare(neighbour_part))
        try:
            neighbour.compute(8 * bench.seconds)
            victim.compute(bench.seconds)
            before_ms = p99_ms(victim.latencies_ms())
            victim.compute(1.5 * bench.seconds)
            time.sleep(bench.seconds / 4)  # in the middle of both computing
        finally:
            neighbour.end(signal.SIGKILL)
        during_ms = p99_ms(victim.latencies_ms())
        bench.partitioner.release(neighbour_part)
    data = {"p99_before_ms": before_ms, "p99_during_ms": during_ms}
    calm = during_ms <= before_ms * UNDISTURBED
    yield Finding("kill -9 of a neighbour", calm, f"victim's p99 {before_ms:.2f} ms, then {during_ms:.2f} ms", data)
    with bench.worker(bench.part("newcomer", 25)) as newcomer:
        sms = newcomer.observed.multiprocessors
        yield Finding("a newcomer attaches afterwards", sms != bench.gpu.multiprocessors, f"{sms} SMs")


def check_static(bench: Bench, directory: Path) -> Iterator[Finding]:
    """Static SM partitions, by doing."""
    control = NvidiaMpsControl(bench.gpu.uuid, directory / "s", bench.command, static=True, query_timeout_s=SOON_S)
    try:
        control.start()
    except Unsupported as error:
        yield Finding("static SM partitions", None, error.message)
        return
    try:
        name = control.add_sm_partition(1)
        control.remove_sm_partition(name)
        yield Finding("static SM partitions", True, name)
    finally:
        control.stop()


def check_contract() -> Iterator[Finding]:
    """The suites of the seams, with the real sides among their parameters."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "gpu", *SUITES]
    done = subprocess.run(command, capture_output=True, text=True, timeout=CONTRACT_S, check=False)
    last = (done.stdout.strip() or done.stderr.strip() or "it said nothing").splitlines()[-1]
    yield Finding("contract suites on hardware", done.returncode == 0, last)


def findings(bench: Bench, directory: Path, suites: bool, parking: Sequence[str]) -> Iterator[Finding]:
    """All checks, the ones that the others rest on first."""
    checks: list[tuple[str, Callable[[], Iterator[Finding]]]] = [
        ("shares", lambda: check_shares(bench)),
        ("driver", lambda: check_driver(bench)),
        ("sandbox", lambda: check_sandbox(bench)),
        ("memory cap", lambda: check_memory_cap(bench)),
        ("fall-through", lambda: check_fall_through(bench)),
        ("clients", lambda: check_clients(bench)),
        ("killed neighbour", lambda: check_killed_neighbour(bench)),
        ("parking", lambda: check_parking(bench, parking)),
        ("counters", lambda: check_counters(bench)),
        ("MIG reads", lambda: check_mig_reads(bench)),
        ("static SM partitions", lambda: check_static(bench, directory)),
        *([("contract suites on hardware", check_contract)] if suites else []),
    ]
    for name, check in checks:
        yield from guarded(name, check)


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpu", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("docs/results/gpu"), help="writes OUT.json and OUT.md")
    parser.add_argument("--pending", action="store_true", help="only the page of what has not run on hardware")
    arguments = parser.parse_args(given)
    end_by_signal()
    if arguments.pending:
        arguments.out.with_suffix(".md").write_text(pending_page())
        return 0
    library = open_nvml()
    if library is None or not library.gpus():
        print("no NVIDIA GPU on this machine; nothing was checked and nothing written", file=sys.stderr)
        return 2
    with library:
        return run(library, library.gpus()[arguments.gpu], arguments.out)


def run(
    library: GpuLibrary,
    gpu: Gpu,
    out: Path,
    command: Sequence[str] = (BINARY,),
    seconds: float = 4.0,
    suites: bool = True,
    parking: Sequence[str] = PARKING,
) -> int:
    """All checks on one GPU; answers the exit status.

    Args:
        library: The driver.
        gpu: Which GPU.
        out: The page's path without its ending.
        command: The MPS control binary.
        seconds: How long a load lasts.
        suites: Whether the seams' suites run too.
        parking: What plays the worker that parks.
    """
    device = Device(gpu.uuid, DeviceKind.GPU, gpu.name, gpu.memory_bytes, gpu.multiprocessors)
    made_by = f"Made by `benchmarks/gpu_checks.py` on {gpu.name}, {gpu.multiprocessors} SMs."
    closing = ["", "Not checked on hardware:", "", *(f"- {name}" for name in NEVER), ""]
    facts = {"gpu": asdict(gpu), "not_checked": NEVER}
    report = Report("Walls on hardware", made_by, out, facts, closing)
    with tempfile.TemporaryDirectory(prefix="pw") as folder, own_daemon(gpu.uuid, Path(folder), command) as control:
        bench = Bench(library, gpu, control, MpsPartitioner(device, control, library), tuple(command), seconds)
        for finding in findings(bench, Path(folder), suites, parking):
            report.add(finding)
    return report.status


if __name__ == "__main__":
    sys.exit(main())
