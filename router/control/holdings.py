"""Replicas with what is asked of them and what their profiles say, and who waits for a place."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from partywall.domain.models import VersionState
from partywall.domain.placements import Placement, ShareBy
from partywall.domain.profiles import device_type
from router.control.observing import batch_s, rows_per_request
from router.control.plan_steps import Step
from router.control.scene import Scene, hopeless
from router.policy.regroup_words import Resident
from router.policy.reshare import Curve, Holding, Load
from router.policy.wants import Want

Curves = Callable[[str, int, str], Curve]
"""(model id, version, device type) -> what its profile measured alone; empty without one."""


class Holdings:
    """Puts them together from catalog, fleet and profiles."""

    def __init__(self, scene: Scene, curves: Curves) -> None:
        self._scene = scene
        self._curves = curves

    def of(
        self, standing: Sequence[Resident], steps: Mapping[str, Step], at_risk: Callable[[str], bool]
    ) -> list[Holding]:
        """Those of all that stand; `steps` are the scaler's by model id."""
        speeds = self._speeds()
        return [self._holding(one, steps, at_risk, speeds) for one in standing]

    def _holding(
        self,
        one: Resident,
        steps: Mapping[str, Step],
        at_risk: Callable[[str], bool],
        speeds: Mapping[tuple[str, int], float],
    ) -> Holding:
        scene, placement = self._scene, one.placement
        version = scene.version(placement)
        device = next((d for d in scene.membership.devices(placement.node) if d.id == one.where[1]), None)
        if version is None or device is None:
            return Holding(one)
        step, load = steps.get(placement.model_id), None
        if step is not None and step.version.number == placement.version and step.seen is not None:
            verdict = step.verdict
            # What asks for more replicas may be served by a larger share.
            steady = step.ready == step.now <= verdict.replicas
            times, part, rows = self._part(placement, speeds)
            load = Load(
                times,
                step.seen.objective_ms,
                verdict.rate_per_s * part,
                verdict.burstiness,
                max(1, step.ready),
                at_risk=at_risk(placement.model_id),
                steady=steady,
                rows_per_request=rows,
            )
        curve = self._curves(placement.model_id, placement.version, device_type(device))
        asked = placement.share_by is ShareBy.OPERATOR or bool(version.manifest.share_percent)
        return Holding(one, curve, load, asked)

    def _speeds(self) -> dict[tuple[str, int], float]:
        """Rows a second of all ready replicas of a version together."""
        out: dict[tuple[str, int], float] = {}
        for one in self._scene.membership.replica_runtimes():
            if one.ready and one.service.known:
                key = one.placement.model_id, one.placement.version
                out[key] = out.get(key, 0.0) + 1.0 / one.service.mean_s(1)
        return out

    def _part(
        self, placement: Placement, speeds: Mapping[tuple[str, int], float]
    ) -> tuple[dict[int, float], float, float]:
        """A replica's service times, its part of the model's requests (as fast as it is beside the others), and how
        many rows they have."""
        mine = self._scene.membership.replicas_by_id.get(placement.id)
        if mine is None or not mine.ready or not mine.service.known:
            return {}, 1.0, 1.0
        part = 1.0 / mine.service.mean_s(1) / speeds[placement.model_id, placement.version]
        return batch_s([mine]), part, rows_per_request([mine])


def waiting(scene: Scene, steps: Sequence[Step]) -> list[Want]:
    """Versions without a place, and replicas that were decided for and have none."""
    placed = {(p.model_id, p.version) for p in scene.catalog.placements() if not p.parked}
    out: list[Want] = []
    for entry in scene.catalog.models():
        tenant = scene.catalog.tenant(entry.model.tenant_id)
        for version in entry.versions.values():
            waits = version.resident and version.state is VersionState.PENDING and not hopeless(version)
            if tenant is not None and waits and (entry.model.id, version.number) not in placed:
                out.append(scene.want(tenant, entry, version))
    for step in steps:
        tenant = scene.catalog.tenant(step.entry.model.tenant_id)
        if tenant is not None and step.blocked:
            out.append(replace(scene.want(tenant, step.entry, step.version), apart=True))
    return out
