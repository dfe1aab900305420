"""Profile jobs of the router, one at a time: measured in workers of their own, told run by run.

Nothing is kept here: the router seals each finished run with the version's key, and sends it back when a job that broke
off is asked for again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import structlog

from isolation.devices.library import GpuLibrary
from isolation.interference.counters import SoloCounters
from isolation.interference.plans import pace_for, plan_for
from isolation.interference.probes import DEFAULT_LLC_BYTES
from isolation.interference.profiler import ProfilePlan, Step, assemble, refuse_busy
from node_agent.artifacts import Artifacts
from node_agent.profiling_bench import Spawn, WorkerBench
from partywall.domain.fleet import Device, DeviceKind
from partywall.domain.models import Signature
from partywall.domain.profiles import device_type
from partywall.errors import InternalError, NotFound, NotReady, PartywallError, Reason
from partywall.v1 import agent_link_pb2 as link
from partywall.v1 import profiles_pb2 as pb
from partywall.wire import convert
from partywall.wire.profiles import profile_to_proto

log = structlog.get_logger(__name__)

Send = Callable[[link.ProfileProgress], None]
Busy = Callable[[Device], Awaitable[str]]
"""Why a device is not free to measure on, apart from what the router knows; empty when it is."""
BUSY_SHARE = 0.25
_WATCH_S = 0.5


class Profiler:
    """Runs jobs; `send` gets each step's progress and how a job ended."""

    def __init__(
        self,
        devices: Sequence[Device],
        spawn: Spawn,
        artifacts: Artifacts,
        send: Send,
        busy: Busy | None = None,
        library: GpuLibrary | None = None,
    ) -> None:
        """`library` reads counters of GPUs; None: profiles have none."""
        self._library = library

        self._devices = {d.id: d for d in devices}
        self._spawn = spawn
        self._artifacts = artifacts
        self._send = send
        self._busy = busy or cores_busy
        self._job = ""
        self._task: asyncio.Task[None] | None = None

    def start(self, job: link.ProfileJob) -> None:
        """Takes a job; returns at once. A second one while one runs is refused by its progress."""
        if self._task is not None and not self._task.done():
            running = NotReady(
                "this node is measuring another profile; wait until it is done, or choose another node (--node)",
                reason=Reason.WRONG_STATE,
            )
            self._send(link.ProfileProgress(id=job.id, error=convert.error_to_proto(running)))
            return
        self._job = job.id
        self._task = asyncio.create_task(self._run(job))

    def cancel(self, job_id: str) -> None:
        """Ends a job; its workers are stopped, and nothing more is told of it."""
        if self._task is not None and self._job == job_id:
            self._task.cancel()

    async def close(self) -> None:
        """Ends whatever runs and waits for its workers."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self, job: link.ProfileJob) -> None:
        try:
            await self._measure(job)
        except PartywallError as error:
            log.warning("profile failed", job=job.id, reason=error.reason.value, error=error.message)
            self._send(link.ProfileProgress(id=job.id, error=convert.error_to_proto(error)))
        except Exception as failure:
            log.exception("profile failed", job=job.id)
            defect = InternalError(f"the profiler failed: {type(failure).__name__}; the agent's log has the cause")
            self._send(link.ProfileProgress(id=job.id, error=convert.error_to_proto(defect)))

    async def _measure(self, job: link.ProfileJob) -> None:
        spec, settings = job.spec, job.settings
        device = self._devices.get(spec.partition.device_id)
        if device is None:
            raise NotFound(f"device {spec.partition.device_id!r} is not on this node; see `partywall fleet show`")
        if not settings.anyway:
            refuse_busy(await self._busy(device), anyway=False)
        folder = await self._artifacts.folder(spec.artifact_id, spec.files)
        pace = pace_for(quick=settings.quick)
        counters = None
        if self._library is not None and device.kind is DeviceKind.GPU:
            counters = SoloCounters(self._library, device.id)
        bench = WorkerBench(self._spawn, job.id, spec, folder, device, pace, _llc_bytes(), counters)
        try:
            first = plan_for(device, max_batch=1, shares=settings.shares, quick=settings.quick).shares[0]
            signature = await bench.signature(first)
            plan = _plan(device, signature, spec, settings)
            await self._steps(job, device, bench, plan)
        finally:
            await bench.close()

    async def _steps(self, job: link.ProfileJob, device: Device, bench: WorkerBench, plan: ProfilePlan) -> None:
        record = pb.ProfileRecord(settings=_settings_text(plan, job.settings), device_type=device_type(device))
        earlier = job.earlier
        if not job.settings.restart and (earlier.settings, earlier.device_type) == (
            record.settings,
            record.device_type,
        ):
            record.runs.extend(earlier.runs)
        done = {run.key: dict(run.values) for run in record.runs}
        for run in () if job.settings.restart else job.known:
            if run.key not in done:
                done[run.key] = dict(run.values)
                record.runs.append(run)
        steps = plan.steps()
        for number, step in enumerate(steps, start=1):
            if step.key not in done:
                done[step.key] = await bench.run(step)
                record.runs.append(pb.MeasuredRun(key=step.key, values=done[step.key]))
            if number < len(steps):
                self._tell(job, number, len(steps), step, record)
        facts = await bench.facts(plan.rows, plan.shares[0])
        profile = assemble(job.spec.model, record.device_type, plan, done, facts)
        record.profile.CopyFrom(profile_to_proto(profile))
        self._tell(job, len(steps), len(steps), steps[-1], record)

    def _tell(self, job: link.ProfileJob, done: int, total: int, step: Step, record: pb.ProfileRecord) -> None:
        label = f"{step.kind.value} {step.key}"
        self._send(link.ProfileProgress(id=job.id, done=done, total=total, label=label, record=record))


async def cores_busy(device: Device) -> str:
    """By the kernel's clock ticks of a CPU's cores over half a second; a GPU is judged by the router alone."""
    if device.kind is not DeviceKind.CPU:
        return ""
    before = _ticks(device.cores)
    await asyncio.sleep(_WATCH_S)
    after = _ticks(device.cores)
    total = sum(after[c][1] - before[c][1] for c in device.cores)
    share = sum(after[c][0] - before[c][0] for c in device.cores) / max(total, 1)
    return f"its cores are {share:.0%} in use" if share > BUSY_SHARE else ""


def _ticks(cores: Sequence[int], path: Path = Path("/proc/stat")) -> dict[int, tuple[int, int]]:
    """(busy, all) clock ticks since boot of each core."""
    found: dict[int, tuple[int, int]] = dict.fromkeys(cores, (0, 0))
    for line in path.read_text().splitlines():
        name, *fields = line.split()
        if name.startswith("cpu") and name[3:].isdigit() and int(name[3:]) in found:
            ticks = [int(f) for f in fields[:8]]
            found[int(name[3:])] = (sum(ticks) - ticks[3] - ticks[4], sum(ticks))
    return found


def _plan(device: Device, signature: Signature, spec: link.PlacementSpec, settings: pb.ProfileSettings) -> ProfilePlan:
    limit = signature.max_batch or (64 if signature.open else 0)
    declared = spec.manifest.max_batch
    max_batch = min(limit, declared) if declared and limit else limit
    rows = settings.batch or 1
    return plan_for(device, max_batch=max_batch, rows=rows, shares=settings.shares, quick=settings.quick)


def _settings_text(plan: ProfilePlan, settings: pb.ProfileSettings) -> str:
    pace = "quick" if settings.quick else "full"
    return f"{pace} shares={','.join(map(str, plan.shares))} rows={plan.rows}"


def _llc_bytes(path: Path = Path("/sys/devices/system/cpu/cpu0/cache")) -> int:
    """Size of the last-level cache; a typical one where the kernel does not tell."""
    sizes = []
    for file in path.glob("index*/size"):
        try:
            text = file.read_text().strip()
        except OSError:
            continue
        if text.endswith("K") and text[:-1].isdigit():
            sizes.append(int(text[:-1]) << 10)
    return min(max(sizes, default=DEFAULT_LLC_BYTES), 64 << 20)
