"""A request for a version that is not resident wakes it, where the version was pushed with `--cold-start`.

One wish per version however many requests wait for it. A request whose deadline the last load would not have met is
told so at once, with the time to come back after, and the version is woken all the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from partywall.domain.models import Version
from partywall.domain.tenants import Tenant
from partywall.errors import DeadlineExceeded, Overloaded, Reason, Unavailable

MOST_WAITING = 256
"""Requests that wait for one version; more are refused."""

MakeResident = Callable[[Tenant, str, int, bool, float | None], Awaitable[None]]
"""Sets the wish and waits until the version is ready: (tenant, model, version, resident, seconds left)."""


def last_load_s(version: Version) -> float:
    """What the last load took."""
    return version.load_seconds


class Waker:
    """Wakes versions. `limit_s` bounds one wake, whoever waits for it; `ready_in_s` says what one takes."""

    def __init__(
        self,
        make_resident: MakeResident,
        limit_s: float = 120.0,
        ready_in_s: Callable[[Version], float] = last_load_s,
    ) -> None:
        self._make_resident = make_resident
        self._ready_in_s = ready_in_s
        self._limit_s = limit_s
        self._waking: dict[tuple[str, int], asyncio.Task[None]] = {}
        self._waiting: dict[tuple[str, int], int] = {}

    async def wake(self, tenant: Tenant, model: str, version: Version, left_s: float) -> None:
        """Returns when the version is ready.

        Raises:
            Unavailable: It cannot be ready in time; it is on its way.
            Overloaded: Too many requests wait for it already.
            DeadlineExceeded: It took longer than it had.
            PartywallError: It failed to load, or has no place.
        """
        key = (version.model_id, version.number)
        task, takes_s = self._waking.get(key), self._ready_in_s(version)
        if task is None:
            task = self._waking[key] = asyncio.create_task(self._wake(tenant, model, version.number))
            task.add_done_callback(lambda done: self._done(key, done))
        if takes_s > left_s:
            raise Unavailable(
                f"version {version.number} is being loaded, which took {takes_s:.1f} s last time and the deadline "
                f"leaves {left_s:.1f} s; send the request again after the hint",
                fields={"state": version.state.value},
                retry_after_s=max(0.1, round(takes_s, 1)),
            )
        if self._waiting.get(key, 0) >= MOST_WAITING:
            raise Overloaded(
                f"{MOST_WAITING} requests wait for version {version.number} to be loaded; send again after the hint",
                reason=Reason.QUEUE_FULL,
                retry_after_s=max(0.1, round(takes_s, 1)),
            )
        self._waiting[key] = self._waiting.get(key, 0) + 1
        try:
            async with asyncio.timeout(left_s):
                await asyncio.shield(task)
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"version {version.number} was not loaded within the deadline; it goes on in the background, and "
                "nothing was executed"
            ) from error
        finally:
            self._waiting[key] -= 1
            if not self._waiting[key]:
                del self._waiting[key]

    async def _wake(self, tenant: Tenant, model: str, number: int) -> None:
        await self._make_resident(tenant, model, number, True, self._limit_s)

    def _done(self, key: tuple[str, int], task: asyncio.Task[None]) -> None:
        self._waking.pop(key, None)
        if not task.cancelled():
            task.exception()  # whoever waits is told; nobody may be
