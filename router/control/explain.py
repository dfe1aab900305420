"""Answers to "why": recorded decisions and the journal of requests, as the services show them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Protocol

from partywall.domain.placements import Alternative, Decision
from partywall.domain.tenants import Tenant
from partywall.errors import NotFound
from partywall.v1 import models_pb2
from partywall.wire import convert
from router.control.catalog import Catalog
from router.gateway.journal import Journal, Trace
from router.policy.choosing import model_ids, with_names

DEFAULT_LIMIT = 50
MOST = 1000


class RequestJournal(Protocol):
    """Recent requests by tenant id; `Requests` is the real one."""

    async def recent(
        self, tenant_id: str, model: str, failed_only: bool, limit: int
    ) -> Sequence[models_pb2.RequestTrace]:
        """Newest first."""
        ...

    async def find(self, tenant_id: str, request_id: str) -> Sequence[models_pb2.RequestTrace]:
        """All of that id, newest first."""
        ...


class NoRequests:
    """A journal that remembers nothing: the simulated side."""

    async def recent(
        self, tenant_id: str, model: str, failed_only: bool, limit: int
    ) -> Sequence[models_pb2.RequestTrace]:
        return ()

    async def find(self, tenant_id: str, request_id: str) -> Sequence[models_pb2.RequestTrace]:
        return ()


class Elsewhere(Protocol):
    """What the router's other processes remember; `router.processes.siblings.Siblings` satisfies it."""

    async def requests(
        self, tenant_id: str, model: str = "", request_id: str = "", *, failed_only: bool = False
    ) -> list[models_pb2.RequestTrace]: ...


class Requests:
    """The gateway's journal as the services show it, with what other processes remember."""

    def __init__(self, journal: Journal, elsewhere: Elsewhere | None = None) -> None:
        self._journal = journal
        self._elsewhere = elsewhere

    async def recent(
        self, tenant_id: str, model: str, failed_only: bool, limit: int
    ) -> Sequence[models_pb2.RequestTrace]:
        here = self._journal.recent(tenant_id, model, failed_only=failed_only, limit=limit)
        found = [trace_view(one, self._journal.at(one)) for one in here]
        if self._elsewhere is not None:
            found += await self._elsewhere.requests(tenant_id, model, failed_only=failed_only)
        return _newest(found)[:limit]

    async def find(self, tenant_id: str, request_id: str) -> Sequence[models_pb2.RequestTrace]:
        found = [trace_view(one, self._journal.at(one)) for one in self._journal.find(tenant_id, request_id)]
        if self._elsewhere is not None:
            found += await self._elsewhere.requests(tenant_id, request_id=request_id)
        return _newest(found)


def _newest(found: list[models_pb2.RequestTrace]) -> list[models_pb2.RequestTrace]:
    return sorted(found, key=lambda one: one.at.ToNanoseconds(), reverse=True)


def trace_view(trace: Trace, at: datetime) -> models_pb2.RequestTrace:
    """A request as the wire has it."""
    return models_pb2.RequestTrace(
        id=trace.id,
        model=trace.model,
        version=trace.version,
        at=convert.timestamp(at),
        outcome=trace.outcome,
        message=trace.message,
        replica=trace.replica,
        rows=trace.rows,
        budget_ms=trace.budget_s * 1e3,
        predicted_ms=trace.predicted_s * 1e3,
        actual_ms=trace.actual_s * 1e3,
        queue_ms=trace.queue_us / 1e3,
        service_ms=trace.service_us / 1e3,
        batch_requests=trace.batch_requests,
        batch_rows=trace.batch_rows,
        attempts=trace.attempts,
        hedged=trace.hedged,
        slo_ms=trace.slo_ms,
    )


def bounded(limit: int) -> int:
    """How many rows an answer holds: the caller's wish within the bound."""
    return min(limit, MOST) if limit else DEFAULT_LIMIT


def decision_view(
    decision: Decision, subject: str, tenant: str = "", named: Mapping[str, str] = MappingProxyType({})
) -> models_pb2.Decision:
    """A decision as the wire has it, about the model of that name.

    `named` gives names of models by id as the reader may know them; the others stay nameless.
    """
    return models_pb2.Decision(
        id=decision.id,
        kind=decision.kind,
        subject=subject,
        summary=decision.summary,
        alternatives=[
            models_pb2.Alternative(
                choice=other.choice,
                chosen=other.chosen,
                reason=with_names(other.reason, named),
                predicted_finish_ms=other.predicted_finish_ms,
            )
            for other in decision.alternatives
        ],
        inputs=dict(decision.inputs),
        at=convert.timestamp(decision.at),
        tenant=tenant,
    )


def decisions_of(
    catalog: Catalog, tenant: Tenant, model: str = "", kind: str = "", limit: int = 0
) -> list[models_pb2.Decision]:
    """Decisions about a tenant's models, newest first."""
    names = {e.model.id: e.model.name for e in catalog.models(tenant.id) if model in ("", e.model.name)}
    chosen = (d for d in catalog.decisions() if d.subject in names and kind in ("", d.kind))
    return [
        decision_view(d, names[d.subject], named=own_names(catalog, tenant.id)) for d in _first(chosen, bounded(limit))
    ]


def decision_of(catalog: Catalog, tenant: Tenant, decision_id: str) -> models_pb2.Decision:
    """One decision about a model of the tenant's.

    Raises:
        NotFound: There is none of that id; another tenant's reads exactly the same.
    """
    names = {e.model.id: e.model.name for e in catalog.models(tenant.id)}
    for one in catalog.decisions():
        if one.id == decision_id and one.subject in names:
            return decision_view(one, names[one.subject], named=names)
    raise decision_not_found(decision_id)


def all_decisions(catalog: Catalog, decision_id: str = "", kind: str = "", limit: int = 0) -> list[models_pb2.Decision]:
    """Decisions about everybody's models, newest first; with an id that one alone.

    Raises:
        NotFound: No decision has the id.
    """
    chosen = (d for d in catalog.decisions() if decision_id in ("", d.id) and kind in ("", d.kind))
    out = []
    for one in _first(chosen, bounded(limit)):
        entry = catalog.model_by_id(one.subject)
        tenant = catalog.tenant(entry.model.tenant_id) if entry is not None else None
        owner = tenant.name if tenant else ""
        out.append(
            decision_view(one, entry.model.name if entry else one.subject, owner, everybodys(catalog, one.alternatives))
        )
    if decision_id and not out:
        raise decision_not_found(decision_id)
    return out


def own_names(catalog: Catalog, tenant_id: str) -> dict[str, str]:
    """Names of a tenant's models by id."""
    return {e.model.id: e.model.name for e in catalog.models(tenant_id)}


def everybodys(catalog: Catalog, alternatives: Iterable[Alternative]) -> dict[str, str]:
    """`tenant/model` of every model that alternatives name, by id, for the operator."""
    found = {}
    for model_id in {m for other in alternatives for m in model_ids(other.reason)}:
        entry = catalog.model_by_id(model_id)
        tenant = catalog.tenant(entry.model.tenant_id) if entry is not None else None
        if entry is not None and tenant is not None:
            found[model_id] = f"{tenant.name}/{entry.model.name}"
    return found


def decision_not_found(decision_id: str) -> NotFound:
    """The one text for an absent decision and for another tenant's."""
    return NotFound(
        f"decision {decision_id[:80]!r} is not known; `partywall decisions list` shows those that are kept",
        fields={"field": "id"},
    )


def request_not_found(request_id: str) -> NotFound:
    """The one text for a request that was never here, is forgotten, or is another tenant's."""
    return NotFound(
        f"request {request_id[:80]!r} is not among the last that are kept; `partywall requests list` shows those",
        fields={"field": "id"},
    )


def _first(decisions: Iterable[Decision], limit: int) -> Iterable[Decision]:
    for at, one in enumerate(decisions):
        if at >= limit:
            return
        yield one
