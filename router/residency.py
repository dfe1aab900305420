"""Load and unload as the Open Inference Protocol has them."""

from __future__ import annotations

import asyncio

from partywall.domain.models import VersionState
from partywall.domain.tenants import Tenant
from partywall.errors import DeadlineExceeded, NotReady, PartywallError
from router.control.control import Control
from router.control.versions import Versions

RESIDENCY_WAIT_S = 120.0


class Residency:
    """Load and unload for the Open Inference Protocol: sets the wish and waits until it is so."""

    def __init__(self, control: Control) -> None:
        self._catalog = control.catalog
        self._versions = Versions(control)

    async def __call__(
        self, tenant: Tenant, name: str, version: int, resident: bool, remaining_s: float | None
    ) -> None:
        entry = await self._versions.set_residency(tenant, name, version, resident=resident)
        number = version or entry.model.live
        done = (VersionState.READY, VersionState.FAILED) if resident else (VersionState.STORED,)
        limit_s = min(remaining_s or RESIDENCY_WAIT_S, RESIDENCY_WAIT_S)
        changed = asyncio.Event()
        stop = self._catalog.subscribe(lambda changes: changed.set())
        try:
            async with asyncio.timeout(limit_s):
                while (state := self._state(tenant, name, number)) not in done:
                    if state is None:
                        raise NotReady(f"model {name!r} version {number} was deleted meanwhile")
                    changed.clear()
                    await changed.wait()
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"model {name!r} version {number} was not {'ready' if resident else 'released'} in {limit_s:.0f} s; "
                "it goes on in the background, ask with ModelReady"
            ) from error
        finally:
            stop()
        if state is VersionState.FAILED:
            raise self._failure(tenant, name, number)

    def _state(self, tenant: Tenant, name: str, number: int) -> VersionState | None:
        entry = self._catalog.model(tenant.id, name)
        version = entry.versions.get(number) if entry else None
        return version.state if version else None

    def _failure(self, tenant: Tenant, name: str, number: int) -> PartywallError:
        entry = self._catalog.model(tenant.id, name)
        version = entry.versions.get(number) if entry else None
        return NotReady(f"model {name!r} version {number} failed to load: {version.reason if version else 'deleted'}")
