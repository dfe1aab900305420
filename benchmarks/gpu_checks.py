"""The walls on a real NVIDIA GPU: MPS shares, memory caps, client lists, a killed neighbour, counters, MIG read-only.

Needs a machine with a GPU, its driver and torch with CUDA; starts an MPS daemon of its own in a private folder, under
the user who runs it, and changes no setting of the GPU. Writes OUT.json and OUT.md. What it cannot check is listed in
the page by name.

    python benchmarks/gpu_checks.py [--gpu 0] [--out docs/results/gpu]
    python benchmarks/gpu_checks.py --pending [--out docs/results/gpu]   the list of what no hardware has seen yet
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.gpu_pending import NEVER, pending_page
from isolation.devices.library import Gpu, GpuLibrary
from isolation.devices.nvml import open_nvml
from isolation.partition.confine import confine_self
from isolation.partition.mps import MpsPartitioner
from isolation.partition.mps_control import NvidiaMpsControl
from isolation.partition.partitioner import Observation, WorkerConfinement
from partywall.domain.fleet import Device, DeviceKind, Partition, PartitionKind
from partywall.errors import PartywallError, Unsupported

GIB = 1 << 30
MEMORY_CAP_BYTES = 4 * GIB
PROBE_STEP_BYTES = 256 << 20
END_S = 20.0
UNDISTURBED = 1.25
"""How much the victim's p99 may grow while its neighbour is killed."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: what was seen, and whether that is what the wall promises. `ok` None: not available here."""

    name: str
    ok: bool | None
    seen: str
    data: dict[str, Any] = field(default_factory=dict)


class Worker:
    """A process behind a confinement that talks in lines of JSON; the first line is what it saw."""

    def __init__(self, confinement: WorkerConfinement, cap_bytes: int = 0) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--role", json.dumps(asdict(confinement)), "--cap", str(cap_bytes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self._process.pid
        self.observed = Observation(pid=self.pid, **self.answer())

    def say(self, **message: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message) + "\n")
        self._process.stdin.flush()

    def answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a worker ended with {self._process.wait(END_S)} before it answered")
        return json.loads(line)

    def end(self, how: signal.Signals = signal.SIGTERM) -> None:
        if self._process.poll() is None:
            self._process.send_signal(how)
        self._process.wait(END_S)


def play(confinement: WorkerConfinement, cap_bytes: int) -> None:
    """A worker's life: confinement, CUDA, what it sees, then batches on request."""
    confine_self(confinement)
    import torch

    properties = torch.cuda.get_device_properties(0)
    got_bytes, refused = probe(torch, cap_bytes) if cap_bytes else (None, None)
    tell(
        multiprocessors=properties.multi_processor_count,
        device_uuid=f"GPU-{properties.uuid}",
        device_memory_bytes=got_bytes,
        probe_refused=refused,
    )
    torch.cuda.empty_cache()
    for line in sys.stdin:
        tell(latencies_ms=multiply(torch, json.loads(line)["seconds"]))


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
    matrix = torch.randn(4096, 4096, device="cuda", dtype=torch.float16)
    latencies_ms = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        begun = time.perf_counter()
        torch.mm(matrix, matrix)
        torch.cuda.synchronize()
        latencies_ms.append((time.perf_counter() - begun) * 1000)
    return latencies_ms


def tell(**message: Any) -> None:
    print(json.dumps(message), flush=True)


def p99_ms(latencies_ms: list[float]) -> float:
    return statistics.quantiles(latencies_ms, n=100)[98]


@dataclass(frozen=True, slots=True)
class Bench:
    library: GpuLibrary
    gpu: Gpu
    control: NvidiaMpsControl
    partitioner: MpsPartitioner

    def part(self, name: str, share: int, memory_bytes: int = 0) -> Partition:
        return Partition(name, PartitionKind.MPS, self.gpu.uuid, (), share, memory_bytes)

    @contextmanager
    def worker(self, partition: Partition, **environment: str) -> Iterator[Worker]:
        given = self.partitioner.prepare(partition)
        changed = WorkerConfinement(environment={**given.environment, **environment})
        worker = Worker(changed, partition.memory_bytes)
        try:
            yield worker
        finally:
            self.partitioner.before_kill(partition, worker.pid)
            worker.end()
            self.partitioner.release(partition)


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
        neighbour.say(seconds=0.5)
        alive = len(neighbour.answer()["latencies_ms"]) > 0
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
        left = bench.control.clients()
        yield Finding("terminate_client ends the attachment", worker.pid not in left, f"clients {left}")


def check_killed_neighbour(bench: Bench) -> Iterator[Finding]:
    """kill -9 of a computing neighbour, without terminate_client: the worst that an operator can do."""
    victim_part, neighbour_part = bench.part("victim", 50), bench.part("offender", 50)
    with bench.worker(victim_part) as victim:
        neighbour = Worker(bench.partitioner.prepare(neighbour_part))
        try:
            neighbour.say(seconds=30.0)
            victim.say(seconds=4.0)
            before_ms = p99_ms(victim.answer()["latencies_ms"])
            victim.say(seconds=6.0)
            time.sleep(1.0)  # in the middle of both computing
        finally:
            neighbour.end(signal.SIGKILL)
        during_ms = p99_ms(victim.answer()["latencies_ms"])
        bench.partitioner.release(neighbour_part)
    data = {"p99_before_ms": before_ms, "p99_during_ms": during_ms}
    calm = during_ms <= before_ms * UNDISTURBED
    yield Finding("kill -9 of a neighbour", calm, f"victim's p99 {before_ms:.2f} ms, then {during_ms:.2f} ms", data)
    with bench.worker(bench.part("newcomer", 25)) as newcomer:
        sms = newcomer.observed.multiprocessors
        yield Finding("a newcomer attaches afterwards", sms != bench.gpu.multiprocessors, f"{sms} SMs")


def check_counters(bench: Bench) -> Iterator[Finding]:
    """GPM under this user."""
    try:
        counters = bench.library.open_counters(bench.gpu.uuid)
    except Unsupported as error:
        yield Finding("GPM counters", None, error.message)
        return
    time.sleep(0.3)  # the counters' own interval
    reading = counters.read()
    counters.close()
    values = {counter.name.lower(): value for counter, value in reading.values.items()}
    yield Finding("GPM counters", bool(values), f"{len(values)} counters as uid {os.getuid()}", values)


def check_mig_reads(bench: Bench) -> Iterator[Finding]:
    """Profiles and placements against our geometry; nothing is changed."""
    if not bench.gpu.mig_capable:
        yield Finding("MIG profiles", None, "this GPU has no MIG")
        return
    profiles = bench.library.mig_profiles(bench.gpu.uuid)
    seen = ", ".join(f"{p.name}: enum {p.enum}, id {p.id}, {p.multiprocessors} SMs" for p in profiles)
    wrong = [p.name for p in profiles if {0: 19, 1: 14, 2: 9, 3: 5, 4: 0, 9: 15}.get(p.enum, p.id) != p.id]
    yield Finding("MIG profiles have the ids of our table", not wrong and bool(profiles), seen, {"wrong": wrong})


def check_static(bench: Bench, directory: Path) -> Iterator[Finding]:
    """Static SM partitions, by doing."""
    control = NvidiaMpsControl(bench.gpu.uuid, directory / "s", static=True)
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
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests/isolation"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    yield Finding("contract suites on hardware", done.returncode == 0, done.stdout.strip().splitlines()[-1])


def findings(bench: Bench, directory: Path) -> Iterator[Finding]:
    checks: list[tuple[str, Callable[[], Iterator[Finding]]]] = [
        ("shares", lambda: check_shares(bench)),
        ("fall-through", lambda: check_fall_through(bench)),
        ("memory cap", lambda: check_memory_cap(bench)),
        ("clients", lambda: check_clients(bench)),
        ("killed neighbour", lambda: check_killed_neighbour(bench)),
        ("counters", lambda: check_counters(bench)),
        ("MIG reads", lambda: check_mig_reads(bench)),
        ("static SM partitions", lambda: check_static(bench, directory)),
        ("contract", check_contract),
    ]
    for name, check in checks:
        try:
            yield from check()
        except (PartywallError, RuntimeError, subprocess.TimeoutExpired) as error:
            yield Finding(name, False, f"{type(error).__name__}: {error}")


def as_page(gpu: Gpu, found: list[Finding]) -> str:
    words = {True: "ok", False: "**failed**", None: "not available"}
    rows = [f"| {f.name} | {words[f.ok]} | {f.seen.replace('|', '/')} |" for f in found]
    head = ["# Walls on hardware", "", f"Made by `benchmarks/gpu_checks.py` on {gpu.name}, {gpu.multiprocessors} SMs."]
    table = ["", "| check | result | seen |", "| --- | --- | --- |", *rows]
    rest = ["", "Not checked on hardware:", "", *(f"- {name}" for name in NEVER), ""]
    return "\n".join([*head, *table, *rest])


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpu", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("docs/results/gpu"), help="writes OUT.json and OUT.md")
    parser.add_argument("--pending", action="store_true", help="only the page of what has not run on hardware")
    parser.add_argument("--role", help=argparse.SUPPRESS)
    parser.add_argument("--cap", type=int, default=0, help=argparse.SUPPRESS)
    arguments = parser.parse_args(given)
    if arguments.role:
        play(WorkerConfinement(**json.loads(arguments.role)), arguments.cap)
        return 0
    if arguments.pending:
        arguments.out.with_suffix(".md").write_text(pending_page())
        return 0
    library = open_nvml()
    if library is None or not library.gpus():
        print("no NVIDIA GPU on this machine; nothing was checked and nothing written", file=sys.stderr)
        return 2
    gpu = library.gpus()[arguments.gpu]
    device = Device(gpu.uuid, DeviceKind.GPU, gpu.name, gpu.memory_bytes, gpu.multiprocessors)
    with tempfile.TemporaryDirectory(prefix="pw") as folder:
        control = NvidiaMpsControl(gpu.uuid, Path(folder))
        try:
            bench = Bench(library, gpu, control, MpsPartitioner(device, control, library))
            found = list(findings(bench, Path(folder)))
        finally:
            control.stop()
            library.close()
    page = as_page(gpu, found)
    print(page)
    arguments.out.with_suffix(".md").write_text(page)
    result = {"gpu": asdict(gpu), "findings": [asdict(f) for f in found], "not_checked": NEVER}
    arguments.out.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    return 1 if any(f.ok is False for f in found) else 0


if __name__ == "__main__":
    sys.exit(main())
