"""The admin port itself: its credential, health without one, and what a defect of ours says."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from control_world import ADMIN, MemoryAudit, Ports, World, admin_port, refused
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from partywall.errors import InternalError, Reason, Unauthenticated
from partywall.v1 import tenants_pb2 as pb
from router.control.rpc import AdminGuard, ErrorInterceptor, admin_digest


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ([], Reason.NO_CREDENTIAL),
        ([("authorization", "Bearer wrong")], Reason.BAD_CREDENTIAL),
        ([("authorization", "pwadmin_test")], Reason.BAD_CREDENTIAL),
        ([("authorization", "Bearer pw_abcdefgh_" + "A" * 43)], Reason.BAD_CREDENTIAL),
    ],
)
async def test_the_admin_port_asks_for_its_credential(ports: Ports, metadata: Any, reason: Reason) -> None:
    calls = (
        ports.tenants.ListTenants(pb.ListTenantsRequest(), metadata=metadata),
        ports.models.UploadFile(iter(()), metadata=metadata),
    )
    for call in calls:
        error = await refused(call)
        assert isinstance(error, Unauthenticated)
        assert error.reason is reason
        assert "admin.key" in error.message


async def test_health_needs_no_credential() -> None:
    server = grpc.aio.server(interceptors=[ErrorInterceptor(), AdminGuard(admin_digest("k"))])
    health_pb2_grpc.add_HealthServicer_to_server(health.aio.HealthServicer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        assert (await stub.Check(health_pb2.HealthCheckRequest())).status == 1
        async for answer in stub.Watch(health_pb2.HealthCheckRequest()):
            assert answer.status == 1
            break
    await server.stop(None)


class BrokenAudit(MemoryAudit):
    def append(self, event: str, fields: Any) -> str:
        raise KeyError("a defect of ours with a secret detail")


async def test_a_defect_reads_internal_with_a_request_id(capsys: pytest.CaptureFixture[str]) -> None:
    world = World(audit=BrokenAudit())
    await world.start()
    async with admin_port(world) as ports:
        request = pb.CreateTenantRequest(name="acme")
        error = await refused(ports.tenants.CreateTenant(request, metadata=[*ADMIN, ("x-request-id", "r-42")]))
    assert isinstance(error, InternalError)
    assert error.fields == {"request_id": "r-42"}
    assert "secret detail" not in error.message
    logged = capsys.readouterr()
    assert "r-42" in logged.out + logged.err
    assert "KeyError" in logged.out + logged.err
