"""Fixtures of the load generator's tests."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from loadgen_fake_server import FakeServer, serving


@pytest.fixture
async def server() -> AsyncIterator[FakeServer]:
    async with serving() as fake:
        yield fake
