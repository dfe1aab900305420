"""Live correction at work in the router: looks on a timer, records what asks for a new profile, shows what it knows."""

from __future__ import annotations

import asyncio
import math
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeAlias

import structlog

from partywall.clock import Clock
from partywall.domain.models import Version
from partywall.domain.placements import Decision
from partywall.errors import PartywallError
from partywall.v1 import models_pb2
from router.control.catalog import Catalog
from router.control.control import in_thread
from router.gateway.correction import Corrections
from router.gateway.predictors import Predictors
from router.gateway.service_window import Taken
from router.gateway.slowdown import SlowdownNow

log = structlog.get_logger(__name__)


Elsewhere: TypeAlias = Callable[[], Awaitable[Mapping[str, Taken] | None]]


async def _nowhere() -> Mapping[str, Taken]:
    return {}


class Slowdowns:
    """`run` looks until it is cancelled; `of` answers `partywall explain`."""

    def __init__(
        self,
        corrections: Corrections,
        catalog: Catalog,
        clock: Clock,
        elsewhere: Elsewhere = _nowhere,
        predictors: Predictors | None = None,
    ) -> None:
        """Predicts by what the fleet and its fits know.

        Args:
            elsewhere: Asks the other processes what they saw; None: one of them did not answer.
            predictors: What works out between looks what was asked for.
        """
        self._predictors = predictors or Predictors()
        self._elsewhere = elsewhere
        self._corrections = corrections
        self._catalog = catalog
        self._clock = clock
        self._asked: set[tuple[str, int]] = set()

    async def run(self) -> None:
        while True:
            await asyncio.sleep(self._corrections.policy.period_s)
            await self.look()

    async def look(self) -> None:
        """One look; whatever asks for a new profile since the last one is recorded as a decision."""
        elsewhere = await self._elsewhere()
        if elsewhere is None:
            # Busy neighbours would be taken for idle ones.
            self._corrections.skip(self._clock.monotonic())
            return
        for _ in self._corrections.looks(self._clock.monotonic(), elsewhere):
            # A large fleet takes a while: requests go first.
            await asyncio.sleep(0)
        await self._predictors.catch_up(in_thread)
        wanting = {
            (s.placement.model_id, s.placement.version): s for s in self._corrections.all_now() if s.wants_profile
        }
        self._asked &= wanting.keys()
        for subject in wanting.keys() - self._asked:
            try:
                await self._record(wanting[subject])
            except PartywallError as error:
                log.warning("not recorded that a profile is wanted", reason=error.reason.value, error=error.message)
                continue
            self._asked.add(subject)

    def new_profile(self, version: Version) -> None:
        """Corrections start over from it."""
        self._corrections.new_profile(version.model_id, version.number)

    def of(self, model_id: str, tenant_id: str) -> list[models_pb2.Slowdown]:
        """What neighbours cost a model's replicas now. Neighbours of other tenants are not named."""
        mine = [s for s in self._corrections.all_now() if s.placement.model_id == model_id]
        return [self._view(s, tenant_id) for s in sorted(mine, key=lambda s: s.placement.id)]

    def all_now(self) -> Sequence[SlowdownNow]:
        """For `/metrics`."""
        return self._corrections.all_now()

    def _view(self, now: SlowdownNow, tenant_id: str) -> models_pb2.Slowdown:
        return models_pb2.Slowdown(
            version=now.placement.version,
            node=now.placement.node,
            share_percent=now.share_percent,
            neighbours=[self._name(n.tenant_id, n.model_id, tenant_id) for n in now.neighbours],
            predicted=now.predicted,
            observed=now.observed,
            bound=now.bound if math.isfinite(now.bound) else 0.0,
            basis=now.basis.value,
            wants_profile=now.wants_profile,
        )

    def _name(self, owner_id: str, model_id: str, reader_id: str) -> str:
        entry = self._catalog.model_by_id(model_id)
        return entry.model.name if entry is not None and owner_id == reader_id else "another tenant's model"

    async def _record(self, now: SlowdownNow) -> None:
        entry = self._catalog.model_by_id(now.placement.model_id)
        if entry is None:
            return
        decision = Decision(
            id=f"decision-{secrets.token_hex(6)}",
            kind="profile",
            subject=entry.model.id,
            summary=(
                f"version {now.placement.version} on {now.placement.node}: live traffic no longer fits its profile, so "
                f"its bound is widened; measure it again with `partywall profile {entry.model.name}`"
            ),
            at=self._clock.now(),
            inputs={
                "predicted": f"{now.predicted:.3f}",
                "observed": f"{now.observed:.3f}",
                "bound": f"{now.bound:.3f}",
            },
        )
        async with self._catalog.transaction() as tx:
            await tx.insert(decision)
        log.info("profile wanted", model=entry.model.name, version=now.placement.version)
