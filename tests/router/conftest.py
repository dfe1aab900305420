"""An installation of its own for each test that asks for one: the control plane, its admin port, two tenants on it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from control_world import ADMIN, Ports, World, admin_port

from partywall.v1 import tenants_pb2


@pytest.fixture
async def world() -> World:
    return await World().start()


@pytest.fixture
async def empty_ports(world: World) -> AsyncIterator[Ports]:
    """Nobody has been created yet."""
    async with admin_port(world) as made:
        yield made


@pytest.fixture
async def ports(empty_ports: Ports) -> Ports:
    """With the tenants acme and globex."""
    for name in ("acme", "globex"):
        await empty_ports.tenants.CreateTenant(tenants_pb2.CreateTenantRequest(name=name), metadata=ADMIN)
    return empty_ports
