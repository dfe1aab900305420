"""From an authenticated request to a replica's answer: route, check, admit, call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from partywall.clock import Clock, WallFromMonotonic
from partywall.domain.models import VersionState
from partywall.domain.tenants import Tenant
from partywall.errors import (
    DeadlineExceeded,
    NotFound,
    NotReady,
    Overloaded,
    PartywallError,
    Reason,
)
from router.gateway.attempts import Attempts, Work
from router.gateway.journal import MAX_ID_CHARACTERS, Journal, Trace
from router.gateway.refusals import model_not_found, not_serving
from router.gateway.replicas import ModelRoute, Replica, Route
from router.gateway.requests import ParsedRequest
from router.gateway.statistics import Statistics
from router.gateway.throttle import Limits
from router.gateway.waking import Waker
from router.policy.routing import RoutingLimits, decide


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Seconds: for calls without a deadline, and the most that is granted."""

    default_s: float
    max_s: float


class Dispatcher:
    """The request's road inside the router. `routes` answers the current table; it may change between calls."""

    def __init__(
        self,
        routes: Callable[[], Mapping[tuple[str, str], ModelRoute]],
        throttle: Limits | None,
        statistics: Statistics,
        limits: RoutingLimits,
        deadlines: Deadlines,
        clock: Clock,
        attempts: Attempts,
        journal: Journal,
        waker: Waker | None = None,
        max_bytes: int = 1 << 30,
    ) -> None:
        """`max_bytes`: of all requests together that have no answer yet."""
        self._routes = routes
        self._throttle = throttle
        self._statistics = statistics
        self._limits = limits
        self._deadlines = deadlines
        self._clock = clock
        self._wall = WallFromMonotonic(clock)
        self._attempts = attempts
        self._journal = journal
        self._waker = waker
        self._max_bytes = max_bytes
        self._bytes = 0

    async def infer(
        self, tenant: Tenant, raw: bytes, parsed: ParsedRequest, remaining_s: float | None, request_id: str
    ) -> bytes:
        """Answers one `inference.ModelInferRequest`, given as it came and parsed.

        Raises:
            PartywallError: A refusal (nothing was executed) or the failure of the execution.
        """
        started_s = self._clock.monotonic()
        request, raw_sizes = parsed
        throttle, model = self._throttle, request.model_name
        entered, waited_s = False, 0.0
        route: Route | None = None
        self._take_in(len(raw))
        trace = Trace(request_id[:MAX_ID_CHARACTERS], model[:MAX_ID_CHARACTERS], started_s)
        self._statistics.in_flight += 1
        try:
            if throttle is not None:
                await throttle.enter(tenant.id, tenant.quota)
                entered = True
            route = self.route(tenant, model, request.model_version)
            if not route.replicas and self._waker is not None and route.version.manifest.cold_start:
                route = await self._woken(self._waker, tenant, route, request, remaining_s)
                waited_s = self._clock.monotonic() - started_s
                remaining_s = None if remaining_s is None else remaining_s - waited_s
            replica = self._admit(route, request, raw_sizes, remaining_s, trace)
            work = Work(
                tenant.id, route, self._fresh, raw, trace.rows, started_s + waited_s + trace.budget_s, request_id, trace
            )
            reply = await self._attempts.call(work, replica, trace.predicted_s)
        except PartywallError as error:
            elapsed_s = self._clock.monotonic() - started_s
            self._journal.failed(tenant.id, trace, error, elapsed_s)
            # An unknown name is a caller's text: it must not become a label.
            self._statistics.refused(tenant.name, model if route is not None else "", error)
            if route is not None:
                self._statistics.failed(tenant.id, model, route.version.number, elapsed_s, error)
            raise
        finally:
            self._bytes -= len(raw)
            self._statistics.in_flight -= 1
            if throttle is not None and entered:
                throttle.leave(tenant.id)
        now_s = self._clock.monotonic()
        elapsed_s = now_s - started_s
        self._journal.served(tenant.id, trace, reply, elapsed_s)
        version = route.version
        self._statistics.served(
            tenant.id,
            tenant.name,
            model,
            version.number,
            elapsed_s,
            reply,
            version.manifest.slo_ms,
            self._wall.ms(now_s),
        )
        return reply.response

    def _take_in(self, size: int) -> None:
        """Counts a request's bytes in.

        Raises:
            Overloaded: QUEUE_FULL; memory must stay bounded, however many large requests come.
        """
        if self._bytes and self._bytes + size > self._max_bytes:
            raise Overloaded(
                f"requests of {self._bytes >> 20} MiB are under way and the router holds {self._max_bytes >> 20} MiB; "
                "send again after the hint",
                reason=Reason.QUEUE_FULL,
                fields={"limit_bytes": str(self._max_bytes)},
                retry_after_s=0.1,
            )
        self._bytes += size

    def route(self, tenant: Tenant, model: str, version: str) -> Route:
        """The route of a version ("" is the live one), whether or not it has replicas.

        Raises:
            NotFound: No such model or version of this tenant.
            NotReady: The model has no live version.
        """
        entry = self._routes().get((tenant.id, model))
        if entry is None:
            raise model_not_found(model)
        if not version:
            if entry.live is None:
                raise NotReady(f"model {model!r} has no live version; promote one (partywall models promote)")
            return entry.live
        number = int(version) if version.isascii() and version.isdigit() else 0
        route = entry.versions.get(number)
        if route is None:
            have = ", ".join(str(n) for n in sorted(entry.versions)) or "none"
            raise NotFound(
                f"model {model!r} has no version {version!r}; it has {have}",
                reason=Reason.MODEL_NOT_FOUND,
                fields={"model": model, "version": version[:20]},
            )
        return route

    def _admit(
        self, route: Route, request: Any, raw_sizes: Sequence[int], remaining_s: float | None, trace: Trace
    ) -> Replica:
        """Checks and places a request: the replica that takes it; rows, budget and prediction go into the trace."""
        trace.version, trace.slo_ms = route.version.number, route.version.manifest.slo_ms
        if not route.replicas or route.check is None:
            raise not_serving(route)
        trace.rows = rows = route.check.rows(request, raw_sizes)
        budget_s = self._deadlines.default_s if remaining_s is None else min(remaining_s, self._deadlines.max_s)
        trace.budget_s = budget_s
        if budget_s <= 0:
            raise DeadlineExceeded("the deadline had passed when the request arrived; nothing was executed")
        replica, trace.predicted_s = self._choose(route, rows, budget_s, trace.started_s)
        if replica.session is None:
            raise not_serving(route)
        return replica

    async def _woken(
        self, waker: Waker, tenant: Tenant, route: Route, request: Any, remaining_s: float | None
    ) -> Route:
        """The route once its version is resident; unchanged where it failed or is on its way without us."""
        version = route.version
        if (version.resident and version.state is VersionState.READY) or version.state is VersionState.FAILED:
            return route
        left_s = self._deadlines.default_s if remaining_s is None else min(remaining_s, self._deadlines.max_s)
        await waker.wake(tenant, request.model_name, version, left_s)
        return self.route(tenant, request.model_name, str(version.number))

    def _fresh(self, work: Work) -> Sequence[Replica]:
        """The version's replicas as they are now, for another try."""
        entry = self._routes().get((work.tenant_id, work.trace.model))
        route = entry.versions.get(work.route.version.number) if entry is not None else None
        return route.replicas if route is not None else ()

    def _choose(self, route: Route, rows: int, budget_s: float, now_s: float) -> tuple[Replica, float]:
        """By predicted finish; while a replica is being replaced, its weight says whose turn it is."""
        if not route.shifts:
            return decide(route.replicas, rows, budget_s, now_s, self._limits)
        try:
            return decide(route.candidates(), rows, budget_s, now_s, self._limits)
        except Overloaded:
            # A weight never refuses anybody: the other of the pair may have room.
            return decide(route.replicas, rows, budget_s, now_s, self._limits)
