"""Simulated devices on a virtual clock. The world holds the rules; a policy only asks.

Rules. A device runs one batch at a time per lane (one lane unless a policy cuts the device). Weights must be resident
to run and memory must be free before a load begins. A device has one copy engine: one load at a time, weights / rate
long, beside the computing of other resident models. What is resident at time zero was loaded for free. A model that
is running or loading cannot be evicted. A policy that breaks a rule ends the run with `InternalError`.
With a `Pace` a batch runs as slowly as those beside it on the device make it, from moment to moment.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Sequence

from loadgen.hardware import Batch, Device, FleetChange, Hardware, Lane, Pace, repaced
from loadgen.scheduling import SchedulingPolicy
from partywall.errors import InternalError
from router.policy.catalog import ServedModel

__all__ = ["Batch", "FleetChange", "Hardware", "SchedulingPolicy", "World"]

EPSILON_S = 1e-9
"""Rounding slack of the clock: a finish this little after its deadline is in time."""
REFUSED = -1.0
WAITING = -2.0
_FINISH, _LOADED, _WAKE, _CHANGE = range(4)


class World:
    """The simulated fleet.

    `batching` and `swap` off: larger batches and later loads break a rule. `noise`: service times scatter evenly by
    this part of themselves. `wake_s`: what a batch takes longer where nothing ran just before it. `pace`: solo times by
    share, and the slowdown by neighbours, that really hold.
    """

    def __init__(
        self,
        models: Sequence[ServedModel],
        hardware: Hardware,
        *,
        batching: bool = True,
        swap: bool = True,
        seed: int = 0,
        noise: float = 0.0,
        wake_s: float = 0.0,
        pace: Pace | None = None,
    ) -> None:
        self.models = models
        self.hardware = hardware
        self.batching = batching
        self.swap = swap
        self.seed = seed
        self._noise = noise
        self._wake_s = wake_s
        self._pace = pace
        self._rng = random.Random(seed)
        self.now = 0.0
        self.busy_s = 0.0
        self.loads = self.preempted = 0
        self._service = [m.service_s for m in models]
        self._weights = [m.weights_gb for m in models]
        self._objective = [m.objective_s for m in models]
        self._devices = [Device(hardware.memory_gb) for _ in range(hardware.devices)]
        self._lanes: list[Lane] = []
        for device in range(hardware.devices):
            self.cut(device, (1.0,))
        self._events: list[tuple[float, int, int, int, int]] = []
        self._order = 0
        self._started = False
        self.model_of: Sequence[int] = ()
        self.deadline_s: list[float] = []
        self.finish_s: list[float] = []

    # -- what a policy may ask before the first arrival ---------------------------------------------------------

    def cut(self, device: int, shares: Sequence[float], *, capped: bool = True) -> list[int]:
        """Cuts an idle device into lanes with these shares of its speed; gives the lanes' numbers.

        Not `capped`: lanes may sum to more than the device, which only a `Pace` can give a meaning.
        """
        if sum(shares) > 1 + 1e-9 and (capped or self._pace is None):
            raise InternalError(f"shares {shares} of device {device} sum to more than the device")
        new = [Lane(device, share) for share in shares]
        held = self._devices[device]
        first = len(self._lanes)
        self._lanes += new
        held.lanes = list(range(first, first + len(new)))
        return held.lanes

    def place(self, device: int, model: int) -> None:
        """A free load of the first plan."""
        if self._started:
            raise InternalError("place() is for the first plan only; use load()")
        held = self._devices[device]
        held.hold(self._weights[model])
        held.resident.add(model)

    def lanes_of(self, device: int) -> Sequence[int]:
        return self._devices[device].lanes

    # -- what a policy may ask at any time ----------------------------------------------------------------------

    def start(self, lane: int, model: int, batch: Batch) -> float:
        """Runs a batch now; gives its finish time, if its neighbours stay as they are."""
        held = self._lanes[lane]
        if held.model >= 0 or model not in self._devices[held.device].resident:
            raise InternalError(f"lane {lane} is busy or model {model} is not resident at {self.now:.6f} s")
        size = len(batch)
        if size > 1 and not self.batching:
            raise InternalError("batching is off")
        held.model = model
        held.batch = batch
        held.began_s = now = self.now
        pace = self._pace
        took = self._service[model][size - 1] / held.share if pace is None else pace.service_s(model, held.share, size)
        if self._wake_s and now > held.ended_s:
            took += self._wake_s
        if self._noise:
            took *= 1 + self._noise * (2 * self._rng.random() - 1)
        if pace is not None:
            held.left_s, held.since_s = took, now
            return self._repace(held.device, lane)
        end = now + took
        held.ticket = self._order = order = self._order + 1
        heapq.heappush(self._events, (end, order, _FINISH, lane, model))
        return end

    def load(self, device: int, model: int) -> float:
        """Begins a load on the copy engine; gives the time it is ready. Memory is taken from now on."""
        held = self._devices[device]
        if not self.swap or held.copying >= 0 or model in held.resident or not held.up:
            raise InternalError(f"device {device} cannot load model {model} at {self.now:.6f} s")
        held.hold(self._weights[model])
        held.copying = model
        took = self._weights[model] / self.hardware.load_gb_per_s
        self.busy_s += took
        self.loads += 1
        self._push(self.now + took, _LOADED, device, model)
        return self.now + took

    def evict(self, device: int, model: int) -> None:
        """Frees a resident model's memory at once."""
        held = self._devices[device]
        if model not in held.resident or any(self._lanes[lane].model == model for lane in held.lanes):
            raise InternalError(f"device {device} cannot evict model {model} at {self.now:.6f} s")
        held.resident.remove(model)
        held.free_gb += self._weights[model]

    def refuse(self, request: int) -> None:
        """Answers a waiting request with a refusal."""
        if self.finish_s[request] != WAITING:
            raise InternalError(f"request {request} is already answered")
        self.finish_s[request] = REFUSED

    def preempt(self, lane: int) -> Batch:
        """Stops a running batch; its requests are the policy's again, its work is lost."""
        held = self._lanes[lane]
        if held.model < 0:
            raise InternalError(f"lane {lane} runs nothing")
        batch = held.batch
        self.busy_s += (self.now - held.began_s) * held.share
        self.preempted += 1
        held.model, held.batch, held.ticket = -1, (), 0
        if self._pace is not None:
            self._repace(held.device)
        return batch

    def wake_at(self, at_s: float) -> None:
        self._push(max(at_s, self.now), _WAKE, 0, 0)

    # -- the run ------------------------------------------------------------------------------------------------

    def run(
        self,
        arrival_s: Sequence[float],
        model_of: Sequence[int],
        policy: SchedulingPolicy,
        changes: Sequence[FleetChange] = (),
    ) -> None:
        """Plays all arrivals (in order of time) and whatever follows from them."""
        objective = self._objective
        self.model_of = model_of
        self.deadline_s = [t + objective[m] + EPSILON_S for t, m in zip(arrival_s, model_of, strict=True)]
        self.finish_s = [WAITING] * len(arrival_s)
        policy.begin(self)
        self._started = True
        for change in changes:
            self._push(change.at_s, _CHANGE, change.device, int(change.up))
        events, deadlines, arrived = self._events, self.deadline_s, policy.arrived
        for request, (at_s, model) in enumerate(zip(arrival_s, model_of, strict=True)):
            while events and events[0][0] <= at_s:
                self._step(policy)
            self.now = at_s
            arrived(at_s, request, model, deadlines[request])
        while events:
            self._step(policy)

    def _step(self, policy: SchedulingPolicy) -> None:
        at_s, order, kind, subject, detail = heapq.heappop(self._events)
        self.now = at_s
        if kind == _FINISH:
            lane = self._lanes[subject]
            if lane.ticket != order:
                return
            batch = lane.batch
            finish = self.finish_s
            for request in batch:
                finish[request] = at_s
            self.busy_s += (at_s - lane.began_s) * lane.share
            lane.ended_s = at_s
            lane.model, lane.batch, lane.ticket = -1, (), 0
            if self._pace is not None:
                self._repace(lane.device)
            policy.finished(at_s, subject, detail, batch)
        elif kind == _LOADED:
            device = self._devices[subject]
            if device.copying == detail:
                device.copying = -1
                device.resident.add(detail)
                policy.loaded(at_s, subject, detail)
        elif kind == _WAKE:
            policy.woken(at_s)
        else:
            self._change(policy, subject, bool(detail))

    def _repace(self, device: int, asked: int = -1) -> float:
        """Who runs on a device has changed: settles what was done so far, and when each will be done now."""
        assert self._pace is not None  # noqa: S101 - callers have looked
        end = 0.0
        running = [n for n in self._devices[device].lanes if self._lanes[n].model >= 0]
        finishes = repaced([self._lanes[n] for n in running], self._pace, self.now)
        for number, finish in zip(running, finishes, strict=True):
            lane = self._lanes[number]
            lane.ticket = self._order = order = self._order + 1
            heapq.heappush(self._events, (finish, order, _FINISH, number, lane.model))
            if number == asked:
                end = finish
        return end

    def _change(self, policy: SchedulingPolicy, device: int, up: bool) -> None:
        held = self._devices[device]
        lost = [gone for lane in held.lanes if self._lanes[lane].model >= 0 for gone in self.preempt(lane)]
        held.clear(self.hardware.memory_gb, up=up)
        policy.changed(self.now, device, up, lost)

    def _push(self, at_s: float, kind: int, subject: int, detail: int) -> None:
        self._order += 1
        heapq.heappush(self._events, (at_s, self._order, kind, subject, detail))
