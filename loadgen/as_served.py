"""The live path on simulated devices: the router's `routing.choose` and the agent's `WorkQueue`, the very objects.

The router knows what the live one does: what it has outstanding at each replica, and when answers came. Service times
are learned from executed batches, begun from the profile; when a running batch will be done is predicted from them,
never read from the world.
Weights stay where the plan put them: the live router does not swap within a request.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from loadgen.world import Batch, World
from node_agent.queueing import BatchLimits, Queued, WorkQueue
from partywall.domain.service_time import ServiceTime
from partywall.errors import Overloaded
from router.policy.catalog import ServedModel, Traffic
from router.policy.replication import first_plan
from router.policy.routing import RoutingLimits, choose
from router.policy.worker_load import Turn


@dataclass(frozen=True, slots=True)
class LanePlacement:
    """One partition of a device, the models whose replicas stand in its worker, and what they are expected to take.

    `expected_s` (model, batch) to seconds at this share beside these neighbours; None: as on a whole quiet device.
    """

    device: int
    share: float
    models: tuple[int, ...]
    expected_s: Callable[[int, int], float] | None = None


class _Worker:
    """One lane's queue, the model and rows that run there, and since when."""

    __slots__ = ("began_s", "device", "expected_s", "lane", "models", "queue", "replicas", "rows", "running", "turn")

    def __init__(self, lane: int, placed: LanePlacement) -> None:
        self.lane = lane
        self.device = placed.device
        self.models = list(placed.models)
        self.expected_s = placed.expected_s
        self.queue = WorkQueue()
        self.running: int | None = None
        self.rows = 0
        self.began_s = 0.0
        self.turn = Turn()
        self.replicas: list[_Replica] = []


class _Replica:
    """What the router knows of a replica (`routing.ReplicaLoad`, `worker_load.Standing`)."""

    slowdown_factor = 1.0
    weight = 1.0
    foreign_rows = 0

    def __init__(self, owner: str, worker: _Worker, max_batch: int) -> None:
        self.owner = owner
        self.worker = worker
        self.due_s: dict[int, float] = {}
        self.peers: list[_Replica] = []
        self.max_batch = max_batch
        self.service = ServiceTime()

    @property
    def outstanding_rows(self) -> int:
        return len(self.due_s)

    @property
    def outstanding_requests(self) -> int:
        return len(self.due_s)

    @property
    def earliest_due_s(self) -> float:
        return min(self.due_s.values(), default=math.inf)

    @property
    def turn(self) -> Turn:
        return self.worker.turn


@dataclass(frozen=True, slots=True)
class _Answer:
    """Requests that leave the router's account when word of them comes; `took_s` None: dropped, not executed."""

    at_s: float
    worker: _Worker
    replica: _Replica
    requests: Sequence[int]
    took_s: float | None


class AsServed:
    """Routing and queueing as they serve, over simulated devices. `tenants` names each model's owner.

    `placement` cuts the devices and says what stands where; without it `first_plan` fills whole devices. `capped` off:
    the lanes of a device are no shares of it but processes without caps. `reply_s`: an answer's way
    to the router.
    """

    def __init__(
        self,
        traffic: Sequence[Traffic],
        tenants: Sequence[str] | None = None,
        limits: RoutingLimits | None = None,
        placement: Sequence[LanePlacement] | None = None,
        *,
        capped: bool = True,
        reply_s: float = 0.0,
    ) -> None:
        self._traffic = traffic
        self._tenants = tenants
        self._limits = limits or RoutingLimits()
        self._placement = placement
        self._capped = capped
        self._reply_s = reply_s
        self._answers: deque[_Answer] = deque()

    def tenant_of(self, model: int) -> str:
        """Who owns a model; without `tenants` each model is its own tenant."""
        return self._tenants[model] if self._tenants else self._world.models[model].name

    def begin(self, world: World) -> None:
        self._world = world
        hardware = world.hardware
        placed = self._placement
        if placed is None:
            plan = first_plan(world.models, self._traffic, hardware.devices, hardware.memory_gb)
            placed = [LanePlacement(device, 1.0, tuple(models)) for device, models in enumerate(plan)]
        self._workers: dict[int, _Worker] = {}
        self._replicas: list[list[_Replica]] = [[] for _ in world.models]
        for device in range(hardware.devices):
            here = [lane for lane in placed if lane.device == device]
            for model in sorted({model for lane in here for model in lane.models}):
                world.place(device, model)
            for number, lane in zip(world.cut(device, [x.share for x in here], capped=self._capped), here, strict=True):
                self._workers[number] = worker = _Worker(number, lane)
                for model in lane.models:
                    self._open(worker, model)
                for one in worker.replicas:
                    one.peers = [other for other in worker.replicas if other is not one]

    def _open(self, worker: _Worker, model: int) -> None:
        held = self._world.models[model]
        most = _useful_batch(held) if self._world.batching else 1
        worker.queue.add_replica(model, BatchLimits(most), self.tenant_of(model))
        replica = _Replica(self.tenant_of(model), worker, most)
        for rows in range(1, most + 1):
            took_s = worker.expected_s(model, rows) if worker.expected_s else held.service_s[rows - 1]
            worker.queue.observe(model, rows, took_s, 0.0)
            replica.service.observe(rows, took_s, 0.0)
        worker.replicas.append(replica)
        self._replicas[model].append(replica)

    def arrived(self, now: float, request: int, model: int, deadline: float) -> None:
        self._hear(now)
        replicas = self._replicas[model]
        if not replicas:
            self._world.refuse(request)
            return
        try:
            replica = choose(replicas, 1, deadline - now, now, self._limits)
        except Overloaded:
            self._world.refuse(request)
            return
        worker = replica.worker
        worker.turn.sent(replica, worker.replicas, 1, now)
        replica.due_s[request] = deadline
        worker.queue.put(Queued(request, model, 1, b"", now, deadline, deadline))
        if worker.running is None:
            self._take(now, worker)

    def finished(self, now: float, lane: int, model: int, batch: Batch) -> None:
        worker = self._workers[lane]
        self._done(now, worker, model, batch)
        self._take(now, worker)

    def _done(self, now: float, worker: _Worker, model: int, batch: Batch) -> None:
        """The queue learns of a batch that ended; the router will."""
        took_s = now - worker.began_s
        worker.running = None
        worker.queue.observe(model, len(batch), took_s, now)
        self._answer(now, worker, model, batch, took_s)

    def _answer(self, now: float, worker: _Worker, model: int, requests: Sequence[int], took_s: float | None) -> None:
        self._answers.append(_Answer(now + self._reply_s, worker, self._replica(model, worker), requests, took_s))

    def _hear(self, now: float) -> None:
        """The router takes in the answers that have come by now; it looks only when something is to be routed."""
        while self._answers and self._answers[0].at_s <= now:
            answer = self._answers.popleft()
            for request in answer.requests:
                del answer.replica.due_s[request]
            if answer.took_s is not None:
                answer.replica.service.observe(len(answer.requests), answer.took_s, answer.at_s)
            answer.worker.turn.answered(answer.worker.replicas, answer.at_s)

    def _take(self, now: float, worker: _Worker) -> None:
        batch, doomed = worker.queue.take(now)
        for item in doomed:
            self._answer(now, worker, item.handle, (item.id,), None)
            self._world.refuse(item.id)
        if batch is not None:
            worker.running, worker.rows = batch.handle, batch.rows
            worker.began_s = now
            self._world.start(worker.lane, batch.handle, [item.id for item in batch.items])

    def _replica(self, model: int, worker: _Worker) -> _Replica:
        return next(replica for replica in self._replicas[model] if replica.worker is worker)

    def loaded(self, now: float, device: int, model: int) -> None: ...

    def woken(self, now: float) -> None: ...

    def changed(self, now: float, device: int, up: bool, lost: Batch) -> None:
        """A dead device's replicas are gone; what ran or waited there is routed again."""
        dead = [worker for worker in self._workers.values() if worker.device == device]
        waiting: list[int] = []
        for worker in dead:
            waiting += [item.id for model in worker.models for item in worker.queue.remove_replica(model)]
            worker.models.clear()
            worker.replicas.clear()
            worker.running = None
        for replicas in self._replicas:
            replicas[:] = [replica for replica in replicas if replica.worker not in dead]
        for request in (*waiting, *lost):
            self.arrived(now, request, self._world.model_of[request], self._world.deadline_s[request])


def _useful_batch(model: ServedModel) -> int:
    """The largest batch that is cheaper per request than the one before."""
    best = 1
    for size in range(2, model.max_batch + 1):
        if model.service_s[size - 1] / size < model.service_s[best - 1] / best * (1 - 1e-9):
            best = size
    return best
