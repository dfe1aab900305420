"""The live planner: watches how models do, decides how many replicas each should have, and has that done.

Who stands beside whom is `regrouping`'s, how large their shares are `resharing`'s, which it calls.

It looks once a second, decides every few seconds and at once where an objective is at risk, and changes one number: the
model's replicas. Where they go is `router.policy.placement`'s, bringing them up and draining them the reconcile loop's.
Every change is recorded with its inputs and the alternatives. `preview` answers what it would do now and does nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import replace

import structlog

from partywall.domain.models import Version
from partywall.domain.placements import Decision
from partywall.errors import PartywallError
from router.control.catalog import ModelEntry
from router.control.coming_back import wake_rates
from router.control.observing import Counters, Counts, Observer
from router.control.passes.replicas import find_place
from router.control.plan_steps import Step, alternatives, inputs
from router.control.regrouping import Regrouping
from router.control.resharing import Resharing
from router.control.scene import Scene, new_id
from router.control.versions import release
from router.policy.placement import Chosen, NoPlace
from router.policy.regroup import Move
from router.policy.reshare import Recut
from router.policy.scaling import FleetScaler, Observed, ScalingLimits

__all__ = ["Counters", "Counts", "LivePlanner"]

log = structlog.get_logger(__name__)

LOOK_S = 1.0
DECIDE_S = 5.0
PORTION = 200
"""Models decided on in one go: some milliseconds."""


class LivePlanner:
    """Runs in the leading router. `counts` reads the request counters, which `refresh` brings up to date; `kick`
    asks for a reconcile pass. `idle_s`: see `RouterSettings`.
    """

    def __init__(
        self,
        scene: Scene,
        counts: Counts,
        limits: ScalingLimits,
        kick: Callable[[], None],
        *,
        apply: bool = True,
        refresh: Callable[[], Awaitable[None]] | None = None,
        idle_s: float = 0.0,
        regrouping: Regrouping | None = None,
        resharing: Resharing | None = None,
    ) -> None:
        self._scene = scene
        self._regrouping = regrouping
        self._resharing = resharing
        self._observer = Observer(scene, counts)
        self._kick = kick
        self._refresh = refresh
        self._idle_s = idle_s
        self._active_s: dict[str, float] = {}
        self.enabled = apply
        self._scaler = FleetScaler(limits)
        self._decided_s = float("-inf")
        self._blocked: dict[str, str] = {}

    async def run(self) -> None:
        """Looks until cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                await self.look()
            except PartywallError as error:
                log.warning("planning failed; trying again", reason=error.reason.value, error=error.message)

    async def look(self) -> None:
        """One look; decides and acts where that is due."""
        if self._refresh is not None:
            await self._refresh()
        now_s = self._scene.clock.monotonic()
        observed = self._observer.look()
        self._scaler.observe(now_s, observed)
        if self.enabled and self._idle_s:
            await self._release_idle(now_s, observed)
        if self._regrouping is not None and await self._regrouping.look(now_s):
            self._kick()
        if now_s - self._decided_s < DECIDE_S and not self._scaler.at_risk(now_s):
            return
        self._decided_s = now_s
        # What came while we wrote is looked at the next time.
        planned = [one for one in self._observer.planned() if one[0].model.id in observed]
        steps: list[Step] = []
        for start in range(0, len(planned), PORTION):
            steps += self._steps(now_s, observed, planned[start : start + PORTION])
            await asyncio.sleep(0)  # requests go first
        held = await self._reshare(now_s, steps)
        for step in steps:
            if step.entry.model.id in held:
                # Its replicas are counted again when its share is as it shall be.
                self._scaler.changed(now_s, step.entry.model.id)
            elif self.enabled and step.verdict.replicas != step.now:
                await self._act(now_s, step)

    async def _reshare(self, now_s: float, steps: Sequence[Step]) -> Collection[str]:
        """Cuts shares anew where that is due; answers the models whose replicas are left alone for it."""
        if self._resharing is None:
            return ()
        looked = await self._resharing.look(now_s, steps, lambda name: self._scaler.missing(now_s, name))
        if looked.begun:
            if self._regrouping is not None:
                self._regrouping.settle(now_s, looked.begun)
            self._kick()
        return looked.held

    def recuts(self) -> list[Recut]:
        """The shares that the last look would cut anew."""
        return list(self._resharing.wishes) if self._resharing is not None else []

    async def _release_idle(self, now_s: float, observed: Mapping[str, Observed]) -> None:
        """Late binding: a version that a request would wake gives its place up when nobody has asked for a while."""
        busy = {r.placement.model_id for r in self._scene.membership.replica_runtimes() if r.in_flight}
        self._active_s = {name: self._active_s.get(name, now_s) for name in observed}
        for entry, version in self._observer.planned():
            name = entry.model.id
            if observed[name].arrivals or name in busy or not version.manifest.cold_start:
                self._active_s[name] = now_s
            elif now_s - self._active_s[name] >= self._idle_s:
                summary = f"is released: no request for {self._idle_s:g} s, and the next one wakes it"
                async with self._scene.catalog.transaction() as tx:
                    await release(tx, version)
                    await tx.insert(self._scene.decision(entry, version, "swap", summary))
                log.info("idle version released", model=entry.model.name, version=version.number)
                self._kick()

    def preview(self) -> list[Step]:
        """What would be done now, model by model; nothing is done, and the counters are not taken as seen."""
        return self._steps(self._scene.clock.monotonic(), self._observer.peek(), self._observer.planned())

    def wishes(self) -> list[Move]:
        """The moves apart and together that the last look found."""
        return list(self._regrouping.wishes) if self._regrouping is not None else []

    def _steps(
        self, now_s: float, observed: Mapping[str, Observed], planned: Sequence[tuple[ModelEntry, Version]]
    ) -> list[Step]:
        verdicts = self._scaler.decide(now_s, {e.model.id: observed[e.model.id] for e, _ in planned})
        rates = wake_rates(self._scene.membership.replica_runtimes())
        steps = []
        for entry, version in planned:
            seen, rate = observed[entry.model.id], rates.get((entry.model.id, version.number), 0.0)
            verdict = verdicts[entry.model.id]
            step = Step(entry, version, seen.wanted, seen.ready, verdict, seen=seen, wake_bytes_per_s=rate)
            if step.verdict.replicas > step.now:
                step = self._placed(step)
            else:
                self._blocked.pop(entry.model.id, None)
            steps.append(step)
        return steps

    def _placed(self, step: Step) -> Step:
        answer: Chosen | NoPlace = find_place(self._scene, step.entry, step.version)
        if isinstance(answer, NoPlace):
            return replace(step, blocked=answer.reason)
        # One at a time: where the next would go is known when this one stands.
        verdict = replace(step.verdict, replicas=step.now + 1)
        where = f"{answer.node}/{answer.partition.device_id} ({answer.partition.kind.value})"
        return replace(step, verdict=verdict, place=where)

    async def _act(self, now_s: float, step: Step) -> None:
        model = step.entry.model
        if step.blocked:
            # Said once, not at every look.
            if self._blocked.get(model.id) != step.blocked:
                self._blocked[model.id] = step.blocked
                await self._record(step)
            return
        async with self._scene.catalog.transaction() as tx:
            await tx.update(replace(model, replicas=step.verdict.replicas))
            await tx.insert(self._decision(step))
        self._scaler.changed(now_s, model.id)
        log.info("replicas", model=model.name, was=step.now, now=step.verdict.replicas, reason=step.verdict.reason)
        self._kick()

    async def _record(self, step: Step) -> None:
        async with self._scene.catalog.transaction() as tx:
            await tx.insert(self._decision(step))
        log.warning("no place for another replica", model=step.entry.model.name, reason=step.blocked)

    def _decision(self, step: Step) -> Decision:
        verdict = step.verdict
        if step.blocked:
            summary = f"stays at {step.now} replica(s): {verdict.reason}, but {step.blocked}"
        else:
            summary = f"from {step.now} to {verdict.replicas} replica(s): {verdict.reason}"
        return Decision(
            id=new_id("decision"),
            kind="scale",
            subject=step.entry.model.id,
            summary=summary,
            at=self._scene.clock.now(),
            alternatives=alternatives(step),
            inputs=inputs(step),
        )
