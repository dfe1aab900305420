"""Tenants, their quotas and their API keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

from partywall.domain.names import check_name
from partywall.domain.tenants import ApiKey, Quota, Tenant, TenantState
from partywall.errors import AlreadyExists, InvalidInput, NotFound, NotReady, PartywallError, Reason
from router.control.control import Control, in_thread, require_standing, require_tenant
from router.control.keys import ParsedKey, make_key

MAX_LIVE_KEYS = 2
MAX_KEY_LIFETIME_S = 10 * 365 * 86_400
MAX_QUOTA_INTEGER = 1 << 62


class TenantAdmin:
    """What an operator does to tenants. Each method is one transaction; all raise Unavailable with the store away."""

    def __init__(self, control: Control) -> None:
        self._control = control

    async def create(self, name: str, quota: Mapping[str, Any]) -> Tenant:
        """A new tenant with keys of its own.

        Raises:
            InvalidInput: A bad name or quota.
            AlreadyExists: The name is taken.
        """
        check_name(name, "name")
        control = self._control
        tenant = Tenant(control.make_id(), name, control.clock.now(), quota=_quota(Quota(), quota))
        if control.catalog.tenant_by_name(name) is not None:
            raise AlreadyExists(
                f"tenant {name!r} exists already; choose another name or use `partywall tenants show {name}`",
                fields={"field": "name", "tenant": name},
            )
        # The keys first: a tenant without keys could never push, keys without a tenant open nothing.
        await in_thread(control.keys.create_tenant, tenant.id)
        try:
            async with control.catalog.transaction() as tx:
                await tx.insert(tenant)
                await control.record("tenant.created", tenant.id, name=name)
        except PartywallError:
            await in_thread(control.keys.shred, tenant.id)
            raise
        return tenant

    async def suspend(self, name: str) -> Tenant:
        """Closes the door; nothing of the tenant is lost. Suspending twice is fine."""
        return await self._set_state(name, TenantState.SUSPENDED, "tenant.suspended")

    async def resume(self, name: str) -> Tenant:
        """Opens the door again.

        Raises:
            NotReady: The tenant is being deleted.
        """
        return await self._set_state(name, TenantState.ACTIVE, "tenant.resumed")

    async def set_quota(self, name: str, changes: Mapping[str, Any]) -> Tenant:
        """Replaces the named fields of the quota.

        Raises:
            InvalidInput: A value is out of range.
        """
        async with self._control.catalog.transaction() as tx:
            tenant = require_tenant(self._control.catalog, name)
            changed = await tx.update(replace(tenant, quota=_quota(tenant.quota, changes)))
            await self._control.record("quota.set", tenant.id, **changes)
        return changed

    async def issue_key(self, name: str, lifetime_s: int) -> tuple[ApiKey, ParsedKey]:
        """A new key, with the secret that is shown once; `lifetime_s` 0: it does not expire.

        Raises:
            NotReady: The tenant has two live keys, or is being deleted.
            InvalidInput: The lifetime is out of range.
        """
        if lifetime_s > MAX_KEY_LIFETIME_S:
            raise InvalidInput(
                f"lifetime_s must be at most {MAX_KEY_LIFETIME_S} (ten years), or 0 for a key that does not expire",
                fields={"field": "lifetime_s"},
            )
        catalog, now, secret = self._control.catalog, self._control.clock.now(), make_key()
        async with catalog.transaction() as tx:
            tenant = require_standing(catalog, require_tenant(catalog, name, "tenant"))
            live = [key.id for key in catalog.keys(tenant.id) if key.live(now)]
            if len(live) >= MAX_LIVE_KEYS:
                raise NotReady(
                    f"tenant {name!r} has {len(live)} live keys ({', '.join(live)}), which is the limit; revoke one "
                    f"first: `partywall keys revoke {name} {live[0]}`",
                    reason=Reason.WRONG_STATE,
                    fields={"tenant": name, "live_keys": ",".join(live)},
                )
            expires_at = now + timedelta(seconds=lifetime_s) if lifetime_s else None
            key = await tx.insert(ApiKey(secret.id, tenant.id, secret.digest, now, expires_at))
            await self._control.record("key.issued", tenant.id, key=key.id)
        return key, secret

    async def revoke_key(self, name: str, key_id: str) -> ApiKey:
        """Closes a key for good; revoking twice is fine.

        Raises:
            NotFound: The tenant has no such key.
        """
        catalog = self._control.catalog
        async with catalog.transaction() as tx:
            tenant = require_tenant(catalog, name, "tenant")
            key = catalog.key(key_id)
            if key is None or key.tenant_id != tenant.id:
                raise NotFound(
                    f"tenant {name!r} has no key {key_id[:80]!r}; `partywall keys list {name}` shows its keys",
                    fields={"field": "id", "key": key_id[:80]},
                )
            if key.revoked_at is not None:
                return key
            key = await tx.update(replace(key, revoked_at=self._control.clock.now()))
            await self._control.record("key.revoked", tenant.id, key=key.id)
        return key

    async def _set_state(self, name: str, state: TenantState, event: str) -> Tenant:
        catalog = self._control.catalog
        async with catalog.transaction() as tx:
            tenant = require_standing(catalog, require_tenant(catalog, name))
            if tenant.state is state:
                return tenant
            tenant = await tx.update(replace(tenant, state=state))
            await self._control.record(event, tenant.id, name=name)
        return tenant


def _quota(quota: Quota, changes: Mapping[str, Any]) -> Quota:
    for name, value in changes.items():
        if isinstance(value, int | float) and not value <= MAX_QUOTA_INTEGER:
            raise InvalidInput(
                f"quota.{name} must be at most {MAX_QUOTA_INTEGER}, or 0 for no limit",
                fields={"field": f"quota.{name}"},
            )
    if "trust_group" in changes:
        check_name(changes["trust_group"], "quota.trust_group")
    return replace(quota, **changes)
