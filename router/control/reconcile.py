"""Desired against observed: places what is wanted, tells the agents, and writes down what they report.

Idempotent: each pass looks at everything and closes the gaps it finds, so a pass may fail and the next one goes on.
"""

from __future__ import annotations

import asyncio

import structlog

from isolation.vault.keys import KeyProvider
from partywall.clock import Clock
from partywall.errors import PartywallError
from router.control.catalog import Catalog
from router.control.desired import DesiredState
from router.control.events import EventLog
from router.control.manoeuvres import Manoeuvres
from router.control.membership import Membership
from router.control.passes.nodes import record_nodes
from router.control.passes.observed import record_observed, release_previous
from router.control.passes.parking import give_way, park
from router.control.passes.placing import place_missing
from router.control.passes.replicas import match_replicas
from router.control.passes.retire import MOVE_AFTER_S, retire
from router.control.passes.withheld import WithheldKeys, reason_of
from router.control.scene import Knowledge, Scene
from router.policy.placement import Operator
from router.policy.shifting import Pace

MANOEUVRE_PERIOD_S = 0.2
"""Between passes while traffic is being shifted."""

log = structlog.get_logger(__name__)


class Reconciler:
    """Runs in the leading router. `kick` asks for a pass; `run` makes passes until cancelled."""

    def __init__(
        self,
        catalog: Catalog,
        membership: Membership,
        keys: KeyProvider,
        clock: Clock,
        operator: Operator,
        *,
        period_s: float = 1.0,
        move_after_s: float = MOVE_AFTER_S,
        pace: Pace | None = None,
        events: EventLog | None = None,
        swap_bytes: int = 0,
        knowledge: Knowledge | None = None,
    ) -> None:
        self.scene = Scene(catalog, membership, clock, operator, knowledge)
        self.manoeuvres = Manoeuvres(self.scene, pace)
        self.events = events or EventLog(catalog, clock)
        self._period_s = period_s
        self._move_after_s = move_after_s
        self._swap_bytes = swap_bytes
        self._desired = DesiredState(catalog, membership, keys, clock)
        self._withheld = WithheldKeys(self.scene, self.events)
        self._kick = asyncio.Event()

    def kick(self) -> None:
        """Asks for a pass soon; cheap, may be called often."""
        self._kick.set()

    async def run(self) -> None:
        while True:
            try:
                async with asyncio.timeout(MANOEUVRE_PERIOD_S if self.manoeuvres.under_way() else self._period_s):
                    await self._kick.wait()
            except TimeoutError:
                pass
            self._kick.clear()
            try:
                await self.reconcile()
            except PartywallError as error:
                # The store is away or somebody else wrote first: serving goes on, the next pass tries again.
                log.warning("reconcile pass failed", reason=error.reason.value, error=error.message)

    async def reconcile(self) -> None:
        """One pass."""
        scene = self.scene
        scene.membership.set_placements(scene.catalog.placements())
        await record_nodes(scene)
        await self.manoeuvres.advance()
        await park(scene, self._swap_bytes)
        await retire(scene, self.manoeuvres, self._move_after_s)
        await place_missing(scene)
        await match_replicas(scene)
        # Whoever was placed just now finds the room that it was promised.
        await give_way(scene, self._swap_bytes)
        withheld = self._desired.withheld
        await record_observed(scene, {one: reason_of(error) for one, error in withheld.items()})
        await self.events.write()
        await release_previous(scene)
        scene.membership.set_placements(scene.catalog.placements())
        self._desired.send()
        await self._withheld.tell(self._desired.withheld)
