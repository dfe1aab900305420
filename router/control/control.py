"""What the control plane's services work with, and the small things they all need."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from isolation.vault.blobs import BlobStore
from isolation.vault.keys import KeyProvider
from partywall.clock import Clock
from partywall.domain.tenants import Tenant
from partywall.errors import NotFound, NotReady, Reason
from router.control.catalog import Catalog, ModelEntry

T = TypeVar("T")


class Audit(Protocol):
    """Where what was done is written down for good; `isolation.vault.audit.AuditLog` satisfies it."""

    def append(self, event: str, fields: Mapping[str, str]) -> str:
        """Appends one event, durably; blocks."""
        ...


def new_id() -> str:
    """An id that is never reused: 128 random bits as a UUID."""
    return str(uuid.uuid4())


@dataclass(frozen=True, slots=True)
class Control:
    """State, keys, blobs, audit and time, as every service gets them."""

    catalog: Catalog
    keys: KeyProvider
    blobs: BlobStore
    audit: Audit
    clock: Clock
    make_id: Callable[[], str] = field(default=new_id)

    async def record(self, event: str, tenant_id: str, **details: object) -> None:
        """Writes an event to the audit log. Inside a transaction, so that nothing is done that is not written down.

        Raises:
            Unavailable: The log cannot be written; the transaction around it is rolled back.
        """
        fields = {"tenant_id": tenant_id, **{name: str(value) for name, value in details.items()}}
        await in_thread(self.audit.append, event, fields)


async def in_thread(function: Callable[..., T], *arguments: object) -> T:
    """A blocking call off the loop. A cancelled caller does not wait; the call itself runs to its end."""
    return await asyncio.to_thread(function, *arguments)


def require_tenant(catalog: Catalog, name: str, field_name: str = "name") -> Tenant:
    """The tenant of that name.

    Raises:
        NotFound: There is none.
    """
    tenant = catalog.tenant_by_name(name)
    if tenant is None:
        raise NotFound(
            f"tenant {name[:80]!r} does not exist; `partywall tenants list` shows those that do",
            fields={"field": field_name, "tenant": name[:80]},
        )
    return tenant


def require_standing(catalog: Catalog, tenant: Tenant) -> Tenant:
    """The tenant, unless its deletion has begun.

    Raises:
        NotReady: It is being deleted.
    """
    if catalog.deletion(tenant.id) is not None:
        raise NotReady(
            f"tenant {tenant.name!r} is being deleted and its keys are destroyed; finish with "
            f"`partywall tenants delete {tenant.name}`",
            reason=Reason.WRONG_STATE,
            fields={"tenant": tenant.name},
        )
    return tenant


def require_model(catalog: Catalog, tenant: Tenant, name: str) -> ModelEntry:
    """The tenant's own model of that name.

    Raises:
        NotFound: MODEL_NOT_FOUND; another tenant's model reads exactly the same.
    """
    entry = catalog.model(tenant.id, name)
    if entry is None:
        raise NotFound(
            f"model {name[:160]!r} does not exist; `partywall models list` shows yours",
            reason=Reason.MODEL_NOT_FOUND,
            fields={"model": name[:160]},
        )
    return entry
