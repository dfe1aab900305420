"""One GPU behind an MPS daemon of our own, and workers behind shares of it."""

from __future__ import annotations

import json
import signal
import statistics
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from benchmarks.gpu.processes import START_S, LineProcess
from isolation.devices.facts import Gpu
from isolation.devices.library import GpuLibrary
from isolation.partition.mps import MpsPartitioner
from isolation.partition.mps_daemon import NvidiaMpsControl
from isolation.partition.partitioner import Observation, WorkerConfinement
from partywall.domain.fleet import Partition, PartitionKind


class Worker(LineProcess):
    """A process behind a confinement (`benchmarks/gpu/player.py`); its first line is what it saw."""

    def __init__(self, confinement: WorkerConfinement, cap_bytes: int = 0, sandbox: str = "") -> None:
        options = ["--cap", str(cap_bytes), *(["--sandbox", sandbox] if sandbox else [])]
        command = [sys.executable, "-m", "benchmarks.gpu.player", json.dumps(asdict(confinement)), *options]
        super().__init__(command)
        try:
            seen = self.answer(START_S)
            self.layers = seen.pop("layers")
            self.observed = Observation(pid=self.pid, **seen)
        except BaseException:
            self.end(signal.SIGKILL)
            raise

    def compute(self, seconds: float) -> None:
        self.say({"seconds": seconds})

    def latencies_ms(self) -> list[float]:
        """Of the last `compute`. RuntimeError: CUDA refused it."""
        answer = self.answer()
        if "error" in answer:
            raise RuntimeError(answer["error"])
        found: list[float] = answer["latencies_ms"]
        return found


def p99_ms(latencies_ms: list[float]) -> float:
    return statistics.quantiles(latencies_ms, n=100)[98]


@dataclass(frozen=True, slots=True)
class Bench:
    library: GpuLibrary
    gpu: Gpu
    control: NvidiaMpsControl
    partitioner: MpsPartitioner
    command: tuple[str, ...]
    seconds: float

    def part(self, name: str, share: int, memory_bytes: int = 0) -> Partition:
        return Partition(name, PartitionKind.MPS, self.gpu.uuid, (), share, memory_bytes)

    @contextmanager
    def worker(self, partition: Partition, sandbox: str = "", **environment: str) -> Iterator[Worker]:
        given = self.partitioner.prepare(partition)
        changed = WorkerConfinement(environment={**given.environment, **environment})
        try:
            worker = Worker(changed, partition.memory_bytes, sandbox)
            try:
                yield worker
            finally:
                self.partitioner.before_kill(partition, worker.pid)
                worker.end()
        finally:
            self.partitioner.release(partition)
