"""The control plane's services, made of one process's parts."""

from __future__ import annotations

from collections.abc import Callable

import grpc

from partywall.domain.tenants import Tenant
from partywall.v1 import (
    models_pb2_grpc,
    profiles_pb2_grpc,
)
from router.control.explain import Requests
from router.control.fleet_service import FleetService
from router.control.models_service import ModelsService
from router.control.partitions import Partitions
from router.control.profiles_service import ProfilesService
from router.control.reconcile import Reconciler
from router.control.rpc import Context
from router.gateway.authn import Authenticator
from router.parts import Parts
from router.servers import collect


def models_service(parts: Parts, caller: Callable[[Context], Tenant]) -> ModelsService:
    """`Models`, for whom `caller` finds."""
    return ModelsService(
        parts.control,
        parts.uploads,
        parts.remover,
        parts.membership,
        caller,
        Requests(parts.journal, parts.siblings),
        slowdowns=parts.slowdowns.of,
    )


def tenants_services(parts: Parts, authenticator: Authenticator) -> list[grpc.GenericRpcHandler]:
    """What tenants do with their models beside inference; the leading process does it for all."""

    def caller(context: Context) -> Tenant:
        return authenticator.tenant(context.invocation_metadata())

    profiles = ProfilesService(parts.profiles, caller)
    return [
        *collect(models_pb2_grpc.add_ModelsServicer_to_server, models_service(parts, caller)),
        *collect(profiles_pb2_grpc.add_ProfilesServicer_to_server, profiles),
    ]


def fleet_service(parts: Parts, reconciler: Reconciler) -> FleetService:
    """`Fleet`, in the leading process."""
    scene, manoeuvres = reconciler.scene, reconciler.manoeuvres
    return FleetService(
        parts.control, parts.membership, parts.enrolment, scene, Partitions(scene, manoeuvres), parts.planner
    )
