"""The live path on simulated devices: the router's `routing.choose` and the agent's `WorkQueue`, the very objects.

The router sees what load reports would tell it, without delay: rows outstanding per replica and the backlog that a
replica's neighbours in the same worker add. Service times are learned from executed batches, begun from the profile.
Weights stay where the first plan put them: the live router does not swap within a request.
"""

from __future__ import annotations

from collections.abc import Sequence

from loadgen.world import Batch, World
from node_agent.queueing import BatchLimits, Queued, WorkQueue
from partywall.domain.service_time import ServiceTime
from partywall.errors import Overloaded
from router.policy.catalog import ServedModel, Traffic
from router.policy.replication import first_plan
from router.policy.routing import RoutingLimits, choose


class _Worker:
    """One device's queue and when its running batch will be done."""

    __slots__ = ("busy", "device", "queue", "until_s")

    def __init__(self, device: int) -> None:
        self.device = device
        self.queue = WorkQueue()
        self.busy = False
        self.until_s = 0.0


class _Replica:
    """What the router knows of a replica (`routing.ReplicaLoad`)."""

    def __init__(self, policy: AsServed, worker: _Worker, model: int, max_batch: int, service: ServiceTime) -> None:
        self.worker = worker
        self.model = model
        self.outstanding_rows = 0
        self.max_batch = max_batch
        self.service = service
        self._policy = policy

    @property
    def outstanding_requests(self) -> int:
        return self.outstanding_rows

    @property
    def shared_backlog_s(self) -> float:
        """Work of the other replicas in this worker, running and waiting."""
        queue = self.worker.queue
        others = self._policy.residents[self.worker.device]
        waiting = sum(queue.backlog_s(model) for model in others if model != self.model)
        running = self._policy.running[self.worker.device]
        elsewhere = running is not None and running != self.model
        return waiting + (max(0.0, self.worker.until_s - self._policy.now) if elsewhere else 0.0)


class AsServed:
    """Routing and queueing as they serve, over simulated devices. `tenants` names each model's owner."""

    def __init__(
        self,
        traffic: Sequence[Traffic],
        tenants: Sequence[str] | None = None,
        limits: RoutingLimits | None = None,
    ) -> None:
        self._traffic = traffic
        self._tenants = tenants
        self._limits = limits or RoutingLimits()
        self.now = 0.0

    def begin(self, world: World) -> None:
        self._world = world
        hardware = world.hardware
        self.residents = first_plan(world.models, self._traffic, hardware.devices, hardware.memory_gb)
        self.running: list[int | None] = [None] * hardware.devices
        self._began = [0.0] * hardware.devices
        self._workers = [_Worker(device) for device in range(hardware.devices)]
        self._replicas: list[list[_Replica]] = [[] for _ in world.models]
        for device, models in enumerate(self.residents):
            for model in models:
                world.place(device, model)
                self._open(device, model)

    def _open(self, device: int, model: int) -> None:
        held = self._world.models[model]
        worker = self._workers[device]
        most = _useful_batch(held) if self._world.batching else 1
        tenant = self._tenants[model] if self._tenants else held.name
        worker.queue.add_replica(model, BatchLimits(most), tenant)
        replica = _Replica(self, worker, model, most, ServiceTime())
        for rows in range(1, most + 1):
            worker.queue.observe(model, rows, held.service_s[rows - 1], 0.0)
            replica.service.observe(rows, held.service_s[rows - 1], 0.0)
        self._replicas[model].append(replica)

    def arrived(self, now: float, request: int, model: int, deadline: float) -> None:
        self.now = now
        replicas = self._replicas[model]
        if not replicas:
            self._world.refuse(request)
            return
        try:
            replica = choose(replicas, 1, deadline - now, now, self._limits)
        except Overloaded:
            self._world.refuse(request)
            return
        replica.outstanding_rows += 1
        replica.worker.queue.put(Queued(request, model, 1, b"", now, deadline, deadline))
        if not replica.worker.busy:
            self._take(now, replica.worker)

    def finished(self, now: float, lane: int, model: int, batch: Batch) -> None:
        self.now = now
        worker = self._workers[lane]
        worker.busy = False
        self.running[lane] = None
        took_s = now - self._began[lane]
        worker.queue.observe(model, len(batch), took_s, now)
        replica = self._replica(model, lane)
        replica.outstanding_rows -= len(batch)
        replica.service.observe(len(batch), took_s, now)
        self._take(now, worker)

    def _take(self, now: float, worker: _Worker) -> None:
        batch, doomed = worker.queue.take(now)
        for item in doomed:
            self._replica(item.handle, worker.device).outstanding_rows -= item.rows
            self._world.refuse(item.id)
        if batch is not None:
            worker.busy = True
            self.running[worker.device] = batch.handle
            self._began[worker.device] = now
            worker.until_s = self._world.start(worker.device, batch.handle, [item.id for item in batch.items])

    def _replica(self, model: int, device: int) -> _Replica:
        return next(replica for replica in self._replicas[model] if replica.worker.device == device)

    def loaded(self, now: float, device: int, model: int) -> None: ...

    def woken(self, now: float) -> None: ...

    def changed(self, now: float, device: int, up: bool, lost: Batch) -> None:
        """A dead device's replicas are gone; what ran or waited there is routed again."""
        worker = self._workers[device]
        waiting = [
            (item.id, item.handle) for model in self.residents[device] for item in worker.queue.remove_replica(model)
        ]
        running = self.running[device]
        for replicas in self._replicas:
            replicas[:] = [replica for replica in replicas if replica.worker is not worker]
        self.residents[device] = []
        self.running[device] = None
        worker.busy = False
        for request, model in [*waiting, *((r, running) for r in lost if running is not None)]:
            self.arrived(now, request, model, self._world.deadline_s[request])


def _useful_batch(model: ServedModel) -> int:
    """The largest batch that is cheaper per request than the one before."""
    best = 1
    for size in range(2, model.max_batch + 1):
        if model.service_s[size - 1] / size < model.service_s[best - 1] / best * (1 - 1e-9):
            best = size
    return best
