"""The operator's services of the simulated server."""

from __future__ import annotations

from typing import Any

from fakes_support import BORN, Faults

from partywall import errors
from partywall.v1 import fleet_pb2, fleet_pb2_grpc, models_pb2, tenants_pb2, tenants_pb2_grpc
from partywall.wire.convert import timestamp
from partywall.wire.status import to_status


class FakeTenants(tenants_pb2_grpc.TenantsServicer):
    """Tenants and keys in memory."""

    def __init__(self, faults: Faults) -> None:
        self.faults = faults
        self.tenants: dict[str, tenants_pb2.Tenant] = {}
        self.last: Any = None

    def CreateTenant(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.faults.check("CreateTenant", context)
        if request.name in self.tenants:
            context.abort_with_status(to_status(errors.AlreadyExists(f"tenant {request.name!r} exists")))
        tenant = tenants_pb2.Tenant(id=f"id-{request.name}", name=request.name, state=1)
        tenant.quota.weight, tenant.quota.trust_group, tenant.quota.trust_policy = 1.0, "default", 3
        tenant.created_at.CopyFrom(timestamp(BORN))
        self.tenants[request.name] = tenant
        return tenant

    def ListTenants(self, _request: Any, context: Any) -> Any:  # noqa: N802
        self.faults.check("ListTenants", context)
        return tenants_pb2.ListTenantsResponse(tenants=self.tenants.values())

    def GetTenant(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.faults.check("GetTenant", context)
        return self._tenant(request.name, context)

    def SuspendTenant(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.faults.check("SuspendTenant", context)
        tenant = self._tenant(request.name, context)
        tenant.state = tenants_pb2.TENANT_STATE_SUSPENDED
        return tenant

    def ResumeTenant(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.faults.check("ResumeTenant", context)
        tenant = self._tenant(request.name, context)
        tenant.state = tenants_pb2.TENANT_STATE_ACTIVE
        return tenant

    def DeleteTenant(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.faults.check("DeleteTenant", context)
        self._tenant(request.name, context)
        del self.tenants[request.name]
        return tenants_pb2.DeleteTenantResponse(keys_shredded=2, versions_removed=1, blob_bytes_removed=7)

    def SetQuota(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.faults.check("SetQuota", context)
        self.last = request
        tenant = self._tenant(request.name, context)
        tenant.quota.MergeFrom(request.quota)
        return tenant

    def IssueKey(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.faults.check("IssueKey", context)
        self.last = request
        return tenants_pb2.IssueKeyResponse(key=self._key(request.tenant), secret="the-secret")

    def ListKeys(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.faults.check("ListKeys", context)
        return tenants_pb2.ListKeysResponse(keys=[self._key(request.tenant)])

    def RevokeKey(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.faults.check("RevokeKey", context)
        key = self._key(request.tenant)
        key.revoked_at.CopyFrom(timestamp(BORN))
        return key

    def _key(self, tenant: str) -> tenants_pb2.ApiKey:
        key = tenants_pb2.ApiKey(id="k1", tenant=tenant)
        key.created_at.CopyFrom(timestamp(BORN))
        return key

    def _tenant(self, name: str, context: Any) -> tenants_pb2.Tenant:
        if name not in self.tenants:
            context.abort_with_status(to_status(errors.NotFound(f"tenant {name!r} does not exist")))
        return self.tenants[name]


class FakeFleet(fleet_pb2_grpc.FleetServicer):
    """One node with a CPU, one replica."""

    def __init__(self, faults: Faults) -> None:
        self.faults = faults
        self.nodes = ["local"]

    def GetFleet(self, _request: Any, context: Any) -> Any:  # noqa: N802
        self.faults.check("GetFleet", context)
        answer = fleet_pb2.GetFleetResponse(epoch=1, generation=2)
        for name in self.nodes:
            node = answer.nodes.add(name=name, state=fleet_pb2.NODE_STATE_ONLINE)
            node.devices.add(id="cpu", kind=1, name="CPU", memory_bytes=1 << 30, compute_units=2, cores=[0, 1])
        replica = answer.replicas.add(tenant="acme", model="echo", version=1, node="local", state=3)
        replica.partition.kind, replica.partition.device_id = 4, "cpu"
        replica.partition.cores.append(1)
        answer.placements.add(id="p1", tenant="acme", model="echo", version=1, node="local", reason="fits")
        return answer

    def ListDecisions(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.faults.check("FleetListDecisions", context)
        decision = models_pb2.Decision(id=request.id or "decision-9", kind="placement", tenant="acme", summary="placed")
        return fleet_pb2.ListFleetDecisionsResponse(decisions=[decision])

    def PreviewPlan(self, _request: Any, context: Any) -> Any:  # noqa: N802
        self.faults.check("PreviewPlan", context)
        step = fleet_pb2.PlanStep(tenant="acme", model="echo", version=1, action="add", reason="the forecast asks")
        step.replicas_now, step.replicas_planned, step.place = 1, 2, "n2/cpu (cpuset)"
        step.expected_attainment = 0.9995
        step.alternatives.add(choice="1 replica(s)", reason="expected attainment 0.5")
        return fleet_pb2.PreviewPlanResponse(enabled=False, steps=[step], replicas_now=1, replicas_planned=2)

    def CreateJoinToken(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.faults.check("CreateJoinToken", context)
        answer = fleet_pb2.CreateJoinTokenResponse(bundle=f"bundle-{request.node}-{request.lifetime_s}")
        answer.expires_at.CopyFrom(timestamp(BORN))
        return answer

    def ForgetNode(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.faults.check("ForgetNode", context)
        self.nodes.remove(request.node)
        return fleet_pb2.ForgetNodeResponse()
