"""Workers behind their walls: the node's authority makes the partition, the worker starts, and the wall is attested.

Nothing here decides what a wall is: that is `isolation.partition`. A worker whose wall does not stand gets no traffic.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import structlog

from isolation.partition.authority import DeviceAuthority
from isolation.partition.partitioner import Attestation, Observation, WorkerConfinement
from node_agent.sight import Check, Sight, no_new_privileges
from node_agent.wall_checks import compare
from node_agent.work import WorkerExit
from node_agent.workers import WorkerHandle
from partywall.domain.fleet import Device, DeviceKind, Partition, PartitionKind
from partywall.errors import PartywallError, Reason, Unavailable, Unsupported

log = structlog.get_logger(__name__)

RECHECK_S = 1.0
"""Between the two looks at a wall that seems not to stand."""

Start = Callable[[str, Partition, WorkerConfinement], Awaitable[WorkerHandle]]
"""Forks a worker that takes a confinement on."""


@dataclass(frozen=True, slots=True)
class Standing:
    """A live worker with the wall it was given and what was seen of it at its start."""

    worker: WorkerHandle
    partition: Partition
    seen: Observation


@dataclass(frozen=True, slots=True)
class Reattested:
    """A wall read again: the verdict, and each comparison behind it."""

    pid: int
    partition: Partition
    attestation: Attestation
    checks: tuple[Check, ...]


class Walls:
    """All walls of this node. Belongs to one event loop; what blocks runs in threads."""

    def __init__(
        self,
        devices: tuple[Device, ...],
        authority: DeviceAuthority,
        start: Start,
        sight: Sight,
        recheck_s: float = RECHECK_S,
    ) -> None:
        self._devices = {device.id: device for device in devices}
        self._authority = authority
        self._start = start
        self._sight = sight
        self._recheck_s = recheck_s
        self._standing: dict[str, Standing] = {}
        self._resting: set[str] = set()
        self._wanted: dict[str, str] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def desired(self, partitions: Mapping[str, str]) -> None:
        """The partitions that shall stand, each with the id of the one it takes over from (or "").

        The first call decides what of an earlier process's partitions is still wanted; later ones release what was
        wanted, is not any more, and has no worker that would do so by ending.
        """
        before, self._wanted = self._wanted, dict(partitions)
        for left in self._authority.partitions():
            if left.id not in partitions and (before is None or left.id in before):
                self._later(self._release(left))

    async def spawn(self, worker_id: str, partition: Partition) -> WorkerHandle:
        """A worker behind its wall.

        Raises:
            Unsupported: This node does not make such a partition.
            PartywallError: The partition has no room, or the wall does not stand; the worker is ended.
        """
        if partition.device_id not in self._devices:
            raise Unsupported(f"device {partition.device_id} is not on this node")
        leaving = tuple(filter(None, [(self._wanted or {}).get(partition.id, "")]))
        async with self._turn(partition.device_id):
            await asyncio.to_thread(self._authority.rouse, partition.id)
            confinement = await asyncio.to_thread(self._authority.prepare, partition, leaving)
            worker = await self._start(worker_id, partition, confinement)
            try:
                seen = await asyncio.to_thread(
                    self._sight.at_start, partition, worker.pid, worker.attested, confinement
                )
                attestation = await asyncio.to_thread(self._authority.attest, partition, seen)
            except PartywallError:
                await worker.stop(1.0)
                raise
        self._keep(worker_id, Standing(worker, partition, seen))
        if not attestation.ok:
            await worker.stop(1.0)
            raise Unavailable(
                f"the wall of partition {partition.id} does not stand: {'; '.join(attestation.reasons)}",
                reason=Reason.WRONG_STATE,
            )
        missing = sorted(k.removeprefix("sandbox.") for k, v in worker.attested.items() if v.startswith("no: "))
        sandbox = "sandbox complete" if not missing else f"sandbox without {', '.join(missing)}"
        worker.attested = {**worker.attested, "wall": f"{attestation.wall}; {sandbox}"}
        return worker

    async def rest(self, worker_id: str) -> None:
        """A worker has parked all it had. On a GPU its partition rests as soon as that holds for all workers in it."""
        standing = self._standing.get(worker_id)
        if standing is None or self._devices[standing.partition.device_id].kind is not DeviceKind.GPU:
            return
        self._resting.add(worker_id)
        await self._settle(standing.partition)

    async def rouse(self, worker_id: str) -> None:
        """A worker is about to bring weights back onto the device.

        Raises:
            NotReady: Others have the memory or the share by now.
        """
        standing = self._standing.get(worker_id)
        if standing is not None and worker_id in self._resting:
            await asyncio.to_thread(self._authority.rouse, standing.partition.id)
            self._resting.discard(worker_id)

    async def again(self, worker_id: str) -> Reattested | None:
        """Reads a worker's wall again, from the kernel and the driver; None: there is no such worker."""
        standing = self._standing.get(worker_id)
        if standing is None:
            return None
        read = await asyncio.to_thread(self._look, standing)
        if not read.attestation.ok:
            # A daemon that is slow for a moment is no lost wall: only what is wrong twice is wrong.
            await asyncio.sleep(self._recheck_s)
            read = await asyncio.to_thread(self._look, standing)
        return read

    def _look(self, standing: Standing) -> Reattested:
        partition, pid = standing.partition, standing.worker.pid
        try:
            now = self._sight.again(partition, standing.seen)
            attestation = self._authority.attest(partition, now)
        except ProcessLookupError:
            gone = Check("process", f"pid {pid}", "gone", False)
            return Reattested(pid, partition, Attestation(False, "none", (f"process {pid} is gone",)), (gone,))
        except PartywallError as error:
            return Reattested(pid, partition, Attestation(False, "unknown", (error.message,)), ())
        device = self._devices[partition.device_id]
        checks = compare(device, partition, now, self._authority.clients(partition))
        private = no_new_privileges(pid)
        checks += (Check("no new privileges", "yes", private, private != "no"),)
        return Reattested(pid, partition, attestation, checks)

    def _keep(self, worker_id: str, standing: Standing) -> None:
        self._standing[worker_id] = standing
        if standing.partition.kind is PartitionKind.MPS:
            self._guard_kill(standing)
        standing.worker.closed.add_done_callback(lambda closed: self._ended(worker_id, standing, closed))

    def _guard_kill(self, standing: Standing) -> None:
        """A busy MPS client's contexts go before its process does."""
        loop, kill = asyncio.get_running_loop(), standing.worker.kill

        def first_contexts(pid: int, number: int) -> None:
            def both() -> None:
                self._authority.before_kill(standing.partition, pid)
                kill(pid, number)

            loop.run_in_executor(None, both)

        standing.worker.kill = first_contexts

    def _ended(self, worker_id: str, standing: Standing, closed: asyncio.Future[WorkerExit]) -> None:
        if self._standing.get(worker_id) is standing:
            del self._standing[worker_id]
            self._resting.discard(worker_id)
        self._sight.ended(standing.partition, closed.result().pid)
        self._later(self._release(standing.partition))
        self._later(self._settle(standing.partition))

    async def _settle(self, partition: Partition) -> None:
        """A partition rests once all workers in it do."""
        inside = {name for name, one in self._standing.items() if one.partition.id == partition.id}
        if inside and inside <= self._resting:
            await asyncio.to_thread(self._authority.rest, partition.id)

    async def _release(self, partition: Partition) -> None:
        """Takes a partition down that nobody wants and nobody is in."""
        if partition.id in (self._wanted or {}) or any(s.partition.id == partition.id for s in self._standing.values()):
            return
        try:
            await asyncio.to_thread(self._authority.release, partition.id)
        except PartywallError as error:
            # It stays in the account; the next start of the agent tries again.
            log.warning("partition not released", partition=partition.id, reason=error.message)

    def _later(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    @asynccontextmanager
    async def _turn(self, device_id: str) -> AsyncIterator[None]:
        """One worker start at a time on a device."""
        turn = self._authority.starting(device_id)
        entering = asyncio.ensure_future(asyncio.to_thread(turn.__enter__))
        try:
            await asyncio.shield(entering)
        except asyncio.CancelledError:
            # The thread may get its turn all the same, and nobody would give it back.
            entering.add_done_callback(lambda f: None if f.exception() else turn.__exit__(None, None, None))
            raise
        try:
            yield
        finally:
            turn.__exit__(None, None, None)
