"""The profiler's bench on a served device: the version in workers of its own, probes in workers beside them.

Everything goes the road of a served replica: forked from the zygote into a partition, walls attested, files opened
sealed, one `Engine` inside. Times are the workers' own service times, the quantity that live traffic is compared with.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from isolation.interference.bench_cpu import share_cores
from isolation.interference.counters import SoloCounters
from isolation.interference.profiler import Facts, Step, StepKind, co_run_values
from isolation.interference.rounds import Pace, Round, combine, relative_spread, window_mean_ms
from node_agent.profiling_inputs import make_request
from node_agent.profiling_stream import Stream
from node_agent.work import BatchDone, LoadResult
from node_agent.worker.probe import BUSY, NAME, PERIOD, UNITS
from node_agent.workers import WorkerHandle
from partywall.client.operations import infer_request
from partywall.domain.fleet import Device, DeviceKind, Partition, PartitionKind
from partywall.domain.models import Signature
from partywall.domain.profiles import ProbeSetting
from partywall.errors import InternalError
from partywall.v1 import agent_link_pb2 as link
from partywall.v1 import models_pb2, worker_pb2
from partywall.wire import inference

Spawn = Callable[[str, Partition], Awaitable[WorkerHandle]]
"""Starts a worker in a partition and answers once its wall is attested."""
_HANDLE = 1
_PROBE_PERIOD_S = 0.05
_STOP_S = 5.0


@dataclass(slots=True)
class _Standing:
    """The version, loaded at one share."""

    share_percent: int
    worker: WorkerHandle
    loaded: LoadResult


class WorkerBench:
    """Runs steps one after the other; at most one worker of the version and two of probes stand at a time.

    Call `signature` first and `close` at the end.
    """

    def __init__(
        self,
        spawn: Spawn,
        job: str,
        spec: link.PlacementSpec,
        folder: Path,
        device: Device,
        pace: Pace,
        llc_bytes: int,
        counters: SoloCounters | None = None,
    ) -> None:
        self._spawn = spawn
        self._job = job
        self._spec = spec
        self._folder = folder
        self._device = device
        self._pace = pace
        self._llc_bytes = llc_bytes
        self._counters = counters
        self._standing: _Standing | None = None
        self._stream: Stream | None = None
        self._facts = Facts()
        self._sizes: dict[int, tuple[int, int]] = {}
        self._numbers = itertools.count(1)

    async def signature(self, share_percent: int) -> Signature:
        """Loads the version at a share and answers what it takes.

        Raises:
            PartywallError: The worker's or the engine's refusal.
        """
        return (await self._model(share_percent)).loaded.signature

    async def facts(self, rows: int, share_percent: int) -> Facts:
        """Memory and load time as first seen, bytes of a batch of `rows` rows.

        Where every run of that size was measured in an earlier job, one is run for its sizes.
        """
        if rows not in self._sizes:
            standing = await self._model(share_percent)
            request = make_request(self._spec.model, self._spec.version, standing.loaded.signature, rows)
            model = self._stream = Stream(standing.worker, _HANDLE, request.data)
            await self._warm(model, rows, request.input_bytes)
        input_bytes, output_bytes = self._sizes[rows]
        return replace(self._facts, input_bytes=input_bytes, output_bytes=output_bytes)

    async def run(self, step: Step) -> dict[str, float]:
        """One step's values, see `isolation.interference.profiler`."""
        if step.kind is StepKind.PROBE_SELF:
            return await self._probe_self(step)
        standing = await self._model(step.own_percent)
        request = make_request(self._spec.model, self._spec.version, standing.loaded.signature, step.rows)
        model = self._stream = Stream(standing.worker, _HANDLE, request.data)
        window_s = await self._warm(model, step.rows, request.input_bytes)
        if step.probe is None:
            return await self._solo(model, window_s)
        async with self._probe(step.probe, step.probe_percent, front=False) as probe:
            return co_run_values(combine([r async for r in self._rounds(model, probe, window_s)]))

    async def _solo(self, model: Stream, window_s: float) -> dict[str, float]:
        if self._counters is not None:
            self._counters.start()
        windows = [window_mean_ms(model.batch_seconds(await model.window(window_s))) for _ in range(self._pace.rounds)]
        seen = self._counters.stop() if self._counters is not None else {}
        return {"alone_ms": statistics.median(windows), "spread": relative_spread(windows), **seen}

    async def close(self) -> None:
        """Ends the version's worker; its memory is free then."""
        if self._stream is not None:
            self._stream.abort()
        standing, self._standing = self._standing, None
        if standing is not None:
            await standing.worker.stop(_STOP_S)

    async def _rounds(self, model: Stream, probe: Stream, window_s: float) -> AsyncIterator[Round]:
        alone = window_mean_ms(model.batch_seconds(await model.window(window_s)))
        for _ in range(self._pace.rounds):
            model.start()
            probe.start()
            await asyncio.sleep(window_s)
            # The probe presses until the model's last batch is out.
            latency = window_mean_ms(model.batch_seconds(await model.stop()))
            beside = _unit_ms(await probe.stop())
            by_itself = _unit_ms(await probe.window(window_s))
            after = window_mean_ms(model.batch_seconds(await model.window(window_s)))
            yield Round(alone, latency, after, by_itself, beside)
            alone = after

    async def _probe_self(self, step: Step) -> dict[str, float]:
        probe = step.probe
        if probe is None:
            raise InternalError(f"step {step.key} names no probe")
        await self.close()
        ratios: list[float] = []
        async with (
            self._probe(probe, step.own_percent, front=True) as one,
            self._probe(probe, step.probe_percent, front=False) as two,
        ):
            for _ in range(self._pace.rounds):
                alone = _unit_ms(await two.window(self._pace.window_s))
                one.start()
                two.start()
                await asyncio.sleep(self._pace.window_s)
                beside = _unit_ms(await two.stop())
                await one.stop()
                ratios.append(beside / alone)
        return {"probe_slowdown": statistics.median(ratios), "probe_spread": relative_spread(ratios)}

    async def _warm(self, model: Stream, rows: int, input_bytes: int) -> float:
        """Runs until caches and clocks have settled; the length of a window for batches like these."""
        taken = await model.window(self._pace.warmup_s)
        output_bytes = len(taken[-1].results[0].response) if taken else 0
        self._sizes[rows] = input_bytes, output_bytes
        batch_s = window_mean_ms(model.batch_seconds(taken)) / 1e3
        model.repeat_for(batch_s)
        return self._pace.window_for(batch_s)

    async def _model(self, share_percent: int) -> _Standing:
        if self._standing is not None and self._standing.share_percent == share_percent:
            return self._standing
        await self.close()
        spec = self._spec
        partition = self._partition(share_percent, front=True, memory_bytes=spec.partition.memory_bytes)
        worker = await self._spawn(partition.id, partition)
        request = worker_pb2.LoadReplica(
            handle=_HANDLE,
            tenant_id=spec.tenant_id,
            model=spec.model,
            version=spec.version,
            manifest=spec.manifest,
            files=spec.files,
            data_key=spec.data_key,
            sealed_dir=str(self._folder),
        )
        try:
            loaded = await worker.load(request)
        except BaseException:
            await worker.stop(_STOP_S)
            raise
        self._standing = _Standing(share_percent, worker, loaded)
        if not self._facts.load_seconds:
            self._facts = Facts(loaded.memory_bytes, loaded.load_seconds)
        return self._standing

    @asynccontextmanager
    async def _probe(self, probe: ProbeSetting, share_percent: int, *, front: bool) -> AsyncIterator[Stream]:
        partition = self._partition(share_percent, front=front, memory_bytes=0)
        worker = await self._spawn(f"{partition.id}-probe", partition)
        try:
            options = {"resource": probe.resource.value, "level": f"{probe.level:g}", "llc_bytes": str(self._llc_bytes)}
            manifest = models_pb2.Manifest(engine=NAME, options=options)
            await worker.load(worker_pb2.LoadReplica(handle=_HANDLE, model=NAME, version=1, manifest=manifest))
            request = infer_request(NAME, {PERIOD: np.array([_PROBE_PERIOD_S])}).SerializeToString()
            stream = Stream(worker, _HANDLE, request)
            try:
                yield stream
            finally:
                stream.abort()
        finally:
            await worker.stop(_STOP_S)

    def _partition(self, share_percent: int, *, front: bool, memory_bytes: int) -> Partition:
        """The model's cores from the front, a probe's from the back; on a GPU a share of it."""
        # Never the same id twice: the last one may be on its way down while the next worker starts.
        name = f"profile-{self._job}-{next(self._numbers)}"
        if self._device.kind is DeviceKind.CPU:
            ordered = self._device.cores if front else self._device.cores[::-1]
            cores = tuple(sorted(share_cores(ordered, share_percent)))
            return Partition(name, PartitionKind.CPUSET, self._device.id, cores, share_percent, memory_bytes)
        kind = PartitionKind.MPS if share_percent < 100 else PartitionKind.WHOLE
        return Partition(name, kind, self._device.id, (), share_percent, memory_bytes)


def _unit_ms(taken: Sequence[BatchDone]) -> float:
    """A probe's own latency over its windows: ms on / units done."""
    units, busy_s = 0, 0.0
    for done in taken:
        response = inference.ModelInferResponse.FromString(done.results[0].response)
        found = {out.name: raw for out, raw in zip(response.outputs, response.raw_output_contents, strict=True)}
        units += int(np.frombuffer(found[UNITS], np.int64)[0])
        busy_s += float(np.frombuffer(found[BUSY], np.float64)[0])
    return 1e3 * busy_s / max(units, 1)
