"""partywall.v1.Fleet: what stands where, and which nodes may join."""

from __future__ import annotations

import asyncio
from typing import Any

from partywall.errors import InvalidInput, NotFound, NotReady, Reason
from partywall.v1 import fleet_pb2, fleet_pb2_grpc
from partywall.wire import convert
from router.control.control import Control
from router.control.enrol import Enrolment, mark_forgotten
from router.control.explain import all_decisions
from router.control.kinds import Stored
from router.control.partition_views import event_view, outcome_view, released_view, use_view
from router.control.partitions import Partitions
from router.control.plan_views import preview_view
from router.control.planning import LivePlanner
from router.control.scene import Scene
from router.control.views import FleetView, node_views, placement_view
from router.policy.retarget import Change

DEFAULT_EVENTS = 100
ATTEST_TIMEOUT_S = 10.0


class FleetService(fleet_pb2_grpc.FleetServicer):
    """The operator's port only."""

    def __init__(
        self,
        control: Control,
        fleet: FleetView,
        enrolment: Enrolment,
        scene: Scene,
        partitions: Partitions,
        planner: LivePlanner | None = None,
    ) -> None:
        self._control = control
        self._fleet = fleet
        self._enrolment = enrolment
        self._scene = scene
        self._partitions = partitions
        self._planner = planner

    async def GetFleet(self, request: fleet_pb2.GetFleetRequest, context: Any) -> fleet_pb2.GetFleetResponse:  # noqa: N802
        catalog = self._control.catalog
        return fleet_pb2.GetFleetResponse(
            nodes=node_views(catalog, self._fleet),
            placements=[placement_view(catalog, one) for one in catalog.placements()],
            replicas=self._fleet.replicas(),
            epoch=self._fleet.epoch,
            generation=self._fleet.generation,
        )

    async def CreateJoinToken(  # noqa: N802
        self, request: fleet_pb2.CreateJoinTokenRequest, context: Any
    ) -> fleet_pb2.CreateJoinTokenResponse:
        bundle, expires_at = await self._enrolment.create_token(request.node, request.lifetime_s)
        return fleet_pb2.CreateJoinTokenResponse(bundle=bundle, expires_at=convert.timestamp(expires_at))

    async def ForgetNode(self, request: fleet_pb2.ForgetNodeRequest, context: Any) -> fleet_pb2.ForgetNodeResponse:  # noqa: N802
        """Takes a node's rights and placements; the models on it find another place."""
        node, catalog = request.node, self._control.catalog
        if any(one.name == node for one in self._fleet.nodes()):
            raise NotReady(
                f"node {node!r} is connected; stop its agent first, then forget it",
                reason=Reason.WRONG_STATE,
                fields={"field": "node"},
            )
        async with catalog.transaction() as tx:
            known = catalog.node(node)
            placements = [one for one in catalog.placements() if one.node == node]
            tokens = [one for one in catalog.join_tokens() if one.node == node]
            if known is None and not placements and not tokens:
                raise NotFound(
                    f"node {node[:80]!r} is not known; `partywall fleet show` shows the nodes", fields={"field": "node"}
                )
            gone: list[Stored] = [*placements, *tokens, *([known] if known is not None else [])]
            for one in gone:
                await tx.delete(one)
            await mark_forgotten(tx, catalog, node, self._control.clock.now())
            await self._control.record("node.forgotten", "", node=node)
        return fleet_pb2.ForgetNodeResponse()

    async def ListDecisions(  # noqa: N802
        self, request: fleet_pb2.ListFleetDecisionsRequest, context: Any
    ) -> fleet_pb2.ListFleetDecisionsResponse:
        found = all_decisions(self._control.catalog, request.id, request.kind, request.limit)
        return fleet_pb2.ListFleetDecisionsResponse(decisions=found)

    async def ListPartitions(  # noqa: N802
        self, request: fleet_pb2.ListPartitionsRequest, context: Any
    ) -> fleet_pb2.ListPartitionsResponse:
        uses = [use_view(self._scene, use) for use in self._partitions.uses()]
        return fleet_pb2.ListPartitionsResponse(partitions=uses)

    async def ChangePartition(  # noqa: N802
        self, request: fleet_pb2.ChangePartitionRequest, context: Any
    ) -> fleet_pb2.ChangePartitionResponse:
        """Another size or place, by replace, shift, drain; with `dry_run` only what it would be."""
        if request.automatic:
            if request.share_percent or request.cores or request.node or request.device_id or request.dry_run:
                raise InvalidInput("automatic goes alone", fields={"field": "automatic"})
            use = await self._partitions.release(request.partition)
            await self._control.record("partition.released", "", partition=request.partition, node=use.node)
            return released_view(self._scene, use)
        change = Change(request.share_percent, request.cores, request.node, request.device_id)
        outcome = await self._partitions.change(request.partition, change, dry_run=request.dry_run)
        if outcome.decisions:
            await self._control.record("partition.changed", "", partition=request.partition, node=outcome.target.node)
        return outcome_view(self._scene, outcome)

    async def AttestFleet(  # noqa: N802
        self, request: fleet_pb2.AttestFleetRequest, context: Any
    ) -> fleet_pb2.AttestFleetResponse:
        """Every wall read again by its agent; a mismatch takes the replica out of traffic there."""
        sessions = list(self._scene.membership.sessions())
        answers = await asyncio.gather(*(s.attest(ATTEST_TIMEOUT_S) for s in sessions), return_exceptions=True)
        response = fleet_pb2.AttestFleetResponse()
        for session, answer in zip(sessions, answers, strict=True):
            if isinstance(answer, BaseException):
                response.silent.append(session.node)
                continue
            for one in answer:
                one.node = session.node
                response.replicas.append(one)
        return response

    async def ListEvents(  # noqa: N802
        self, request: fleet_pb2.ListEventsRequest, context: Any
    ) -> fleet_pb2.ListEventsResponse:
        """Newest first."""
        events = [one for one in self._control.catalog.events() if request.node in ("", one.node)]
        shown = events[: request.limit or DEFAULT_EVENTS]
        return fleet_pb2.ListEventsResponse(events=[event_view(one) for one in shown])

    async def PreviewPlan(  # noqa: N802
        self, request: fleet_pb2.PreviewPlanRequest, context: Any
    ) -> fleet_pb2.PreviewPlanResponse:
        if self._planner is None:
            raise NotReady(
                "this router counts no requests (--no-metrics), so there is nothing to plan by; start it without that",
                reason=Reason.WRONG_STATE,
            )
        planner = self._planner
        wishes, recuts = planner.wishes(), planner.recuts()
        return preview_view(self._control.catalog, planner.preview(), wishes, recuts, enabled=planner.enabled)
