"""From an authenticated request to a replica's answer: route, check, admit, call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from partywall.clock import Clock
from partywall.domain.models import VersionState
from partywall.domain.tenants import Tenant
from partywall.errors import (
    DeadlineExceeded,
    InvalidInput,
    NotFound,
    NotReady,
    PartywallError,
    Reason,
    Unavailable,
)
from router.gateway.replicas import ModelRoute, Route
from router.gateway.statistics import Statistics
from router.gateway.tensors import check_request
from router.gateway.throttle import Throttle
from router.policy.routing import RoutingLimits, choose


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Seconds: for calls without a deadline, and the most that is granted."""

    default_s: float
    max_s: float


def model_not_found(name: str) -> NotFound:
    """The one text for an absent model and for another tenant's."""
    return NotFound(
        f"model {name!r} does not exist; `partywall models list` shows yours",
        reason=Reason.MODEL_NOT_FOUND,
        fields={"model": name[:160]},
    )


class Dispatcher:
    """The request's road inside the router. `routes` answers the current table; it may change between calls."""

    def __init__(
        self,
        routes: Callable[[], Mapping[tuple[str, str], ModelRoute]],
        throttle: Throttle | None,
        statistics: Statistics,
        limits: RoutingLimits,
        deadlines: Deadlines,
        clock: Clock,
    ) -> None:
        self._routes = routes
        self._throttle = throttle
        self._statistics = statistics
        self._limits = limits
        self._deadlines = deadlines
        self._clock = clock

    async def infer(
        self, tenant: Tenant, raw: bytes, request: Any, remaining_s: float | None, request_id: str
    ) -> bytes:
        """Answers one `inference.ModelInferRequest`, given parsed and as it came.

        Raises:
            PartywallError: A refusal (nothing was executed) or the failure of the execution.
        """
        started_s = self._clock.monotonic()
        throttle, model = self._throttle, request.model_name
        entered = False
        route: Route | None = None
        try:
            if throttle is not None:
                await throttle.enter(tenant.id, tenant.quota)
                entered = True
            self._statistics.in_flight.inc()
            try:
                route = self.route(tenant, model, request.model_version)
                return await self._run(tenant, route, raw, request, remaining_s, request_id, started_s)
            finally:
                self._statistics.in_flight.dec()
        except PartywallError as error:
            # An unknown name is a caller's text: it must not become a label.
            self._statistics.refused(tenant.name, model if route is not None else "", error)
            if route is not None:
                elapsed_s = self._clock.monotonic() - started_s
                self._statistics.failed(tenant.id, model, route.version.number, elapsed_s)
            raise
        finally:
            if throttle is not None and entered:
                throttle.leave(tenant.id)

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

    async def _run(
        self,
        tenant: Tenant,
        route: Route,
        raw: bytes,
        request: Any,
        remaining_s: float | None,
        request_id: str,
        started_s: float,
    ) -> bytes:
        if not route.replicas or route.signature is None:
            raise not_serving(route)
        rows = check_request(request, route.signature)
        budget_s = self._deadlines.default_s if remaining_s is None else min(remaining_s, self._deadlines.max_s)
        if budget_s <= 0:
            raise DeadlineExceeded("the deadline had passed when the request arrived; nothing was executed")
        replica = choose(route.replicas, rows, budget_s, started_s, self._limits)
        session = replica.session
        if session is None:
            raise not_serving(route)
        reply = await session.call(replica, raw, rows, budget_s, request_id)
        elapsed_s = self._clock.monotonic() - started_s
        self._statistics.served(
            tenant.id,
            tenant.name,
            request.model_name,
            route.version.number,
            elapsed_s,
            reply,
            route.version.manifest.slo_ms,
            int(self._clock.now().timestamp() * 1e3),
        )
        return reply.response


def not_serving(route: Route) -> PartywallError:
    """Why a version without ready replicas does not serve: coming, failed, or not wanted."""
    version = route.version
    if version.state is VersionState.FAILED:
        return NotReady(
            f"version {version.number} failed to load: {version.reason}; push a corrected version",
            fields={"state": version.state.value},
        )
    if not version.resident:
        return NotReady(
            f"version {version.number} is stored but not resident; load it (partywall models load) or promote it",
            fields={"state": version.state.value},
        )
    detail = f" ({version.reason})" if version.reason else ""
    return Unavailable(
        f"version {version.number} has no ready replica yet{detail}; send the request again",
        fields={"state": version.state.value},
        retry_after_s=1.0,
    )


def parse_request(message: Any, raw: bytes) -> Any:
    """Parses a serialised request.

    Raises:
        InvalidInput: Not a ModelInferRequest.
    """
    try:
        return message.FromString(raw)
    except Exception as error:  # protobuf's DecodeError has no stable place across its major versions
        raise InvalidInput(f"the request is not a ModelInferRequest: {error}") from error
