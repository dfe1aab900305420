"""partywall.v1.Tenants: the operator's port only."""

from __future__ import annotations

from typing import Any

from partywall.v1 import tenants_pb2, tenants_pb2_grpc
from partywall.wire import convert
from router.control.control import Control, require_tenant
from router.control.removal import Remover
from router.control.tenancy import TenantAdmin
from router.control.views import key_view, tenant_view


class TenantsService(tenants_pb2_grpc.TenantsServicer):
    """Messages in and out of `TenantAdmin` and `Remover`; errors pass to the interceptor."""

    def __init__(self, control: Control, remover: Remover) -> None:
        self._control = control
        self._remover = remover
        self._admin = TenantAdmin(control)

    async def CreateTenant(self, request: tenants_pb2.CreateTenantRequest, context: Any) -> tenants_pb2.Tenant:  # noqa: N802
        await self._admin.create(request.name, convert.quota_changes(request.quota))
        return self._show(request.name)

    async def ListTenants(  # noqa: N802
        self, request: tenants_pb2.ListTenantsRequest, context: Any
    ) -> tenants_pb2.ListTenantsResponse:
        now = self._control.clock.now()
        catalog = self._control.catalog
        return tenants_pb2.ListTenantsResponse(tenants=[tenant_view(catalog, one, now) for one in catalog.tenants()])

    async def GetTenant(self, request: tenants_pb2.GetTenantRequest, context: Any) -> tenants_pb2.Tenant:  # noqa: N802
        return self._show(request.name)

    async def SuspendTenant(self, request: tenants_pb2.SuspendTenantRequest, context: Any) -> tenants_pb2.Tenant:  # noqa: N802
        await self._admin.suspend(request.name)
        return self._show(request.name)

    async def ResumeTenant(self, request: tenants_pb2.ResumeTenantRequest, context: Any) -> tenants_pb2.Tenant:  # noqa: N802
        await self._admin.resume(request.name)
        return self._show(request.name)

    async def DeleteTenant(  # noqa: N802
        self, request: tenants_pb2.DeleteTenantRequest, context: Any
    ) -> tenants_pb2.DeleteTenantResponse:
        removed = await self._remover.delete_tenant(request.name)
        return tenants_pb2.DeleteTenantResponse(
            keys_shredded=removed.keys_shredded,
            versions_removed=removed.versions,
            blob_bytes_removed=removed.blob_bytes,
        )

    async def SetQuota(self, request: tenants_pb2.SetQuotaRequest, context: Any) -> tenants_pb2.Tenant:  # noqa: N802
        await self._admin.set_quota(request.name, convert.quota_changes(request.quota))
        return self._show(request.name)

    async def IssueKey(self, request: tenants_pb2.IssueKeyRequest, context: Any) -> tenants_pb2.IssueKeyResponse:  # noqa: N802
        key, secret = await self._admin.issue_key(request.tenant, request.lifetime_s)
        tenant = require_tenant(self._control.catalog, request.tenant, "tenant")
        return tenants_pb2.IssueKeyResponse(key=key_view(key, tenant), secret=secret.text)

    async def ListKeys(self, request: tenants_pb2.ListKeysRequest, context: Any) -> tenants_pb2.ListKeysResponse:  # noqa: N802
        catalog = self._control.catalog
        tenant = require_tenant(catalog, request.tenant, "tenant")
        return tenants_pb2.ListKeysResponse(keys=[key_view(key, tenant) for key in catalog.keys(tenant.id)])

    async def RevokeKey(self, request: tenants_pb2.RevokeKeyRequest, context: Any) -> tenants_pb2.ApiKey:  # noqa: N802
        key = await self._admin.revoke_key(request.tenant, request.id)
        return key_view(key, require_tenant(self._control.catalog, request.tenant, "tenant"))

    def _show(self, name: str) -> tenants_pb2.Tenant:
        catalog = self._control.catalog
        return tenant_view(catalog, require_tenant(catalog, name), self._control.clock.now())
