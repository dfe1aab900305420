"""partywall.v1.Models: for a tenant on the public port, for the operator on the admin port."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from partywall.domain.tenants import Tenant
from partywall.errors import InvalidInput
from partywall.sealed import wipe
from partywall.v1 import models_pb2, models_pb2_grpc
from partywall.wire import convert
from router.control.catalog import Catalog, ModelEntry
from router.control.control import Control, require_model, require_tenant
from router.control.explain import (
    NoRequests,
    RequestJournal,
    bounded,
    decision_of,
    decision_view,
    decisions_of,
    request_not_found,
)
from router.control.removal import Remover
from router.control.rpc import Context, metadata_value
from router.control.uploads import Uploads
from router.control.versions import Versions
from router.control.views import FleetView, ModelViews, explanation, ready_placements, standing_decision

TENANT_KEY = "x-partywall-tenant"
CallerResolver = Callable[[Context], Tenant]


def admin_resolver(catalog: Catalog) -> CallerResolver:
    """On the admin port: the tenant that the operator names in the metadata."""

    def resolve(context: Context) -> Tenant:
        name = metadata_value(context.invocation_metadata(), TENANT_KEY)
        if not name:
            raise InvalidInput(
                f"metadata {TENANT_KEY!r} is missing: on the admin port it names the tenant whose models are meant "
                "(--tenant NAME)",
                fields={"field": TENANT_KEY},
            )
        return require_tenant(catalog, name, TENANT_KEY)

    return resolve


class ModelsService(models_pb2_grpc.ModelsServicer):
    """One implementation for both ports: they differ in how the tenant is found."""

    def __init__(
        self,
        control: Control,
        uploads: Uploads,
        remover: Remover,
        fleet: FleetView,
        resolve: CallerResolver,
        requests: RequestJournal | None = None,
        *,
        slowdowns: Callable[[str, str], Sequence[models_pb2.Slowdown]] = lambda model_id, tenant_id: (),
    ) -> None:
        """Args: `uploads` and `remover` are shared between the ports; `resolve` raises for who may not come in."""
        self._slowdowns = slowdowns
        self._control = control
        self._uploads = uploads
        self._remover = remover
        self._fleet = fleet
        self._resolve = resolve
        self._versions = Versions(control)
        self._requests: RequestJournal = requests or NoRequests()

    async def BeginVersion(  # noqa: N802
        self, request: models_pb2.BeginVersionRequest, context: Any
    ) -> models_pb2.BeginVersionResponse:
        tenant = self._resolve(context)
        manifest = convert.manifest_from_proto(request.manifest)
        files = [(file.name, file.plain_size) for file in request.files]
        begun = await self._uploads.begin(tenant, request.model, manifest, files)
        try:
            return models_pb2.BeginVersionResponse(
                upload_id=begun.upload.id,
                tenant_id=tenant.id,
                version=begun.upload.version,
                data_key=bytes(begun.data_key),
                key_record_id=begun.upload.key_record_id,
            )
        finally:
            wipe(begun.data_key)

    async def GetUpload(self, request: models_pb2.GetUploadRequest, context: Any) -> models_pb2.GetUploadResponse:  # noqa: N802
        upload = self._uploads.find(self._resolve(context), request.upload_id)
        return models_pb2.GetUploadResponse(
            model=upload.model,
            version=upload.version,
            files=[
                models_pb2.UploadedFile(
                    name=file.name, plain_size=file.plain_size, sealed_size=file.sealed_size, received=received
                )
                for file, received in await self._uploads.received(upload)
            ],
        )

    async def UploadFile(  # noqa: N802
        self, request_iterator: AsyncIterator[models_pb2.UploadChunk], context: Any
    ) -> models_pb2.UploadResponse:
        tenant = self._resolve(context)
        first = await anext(aiter(request_iterator), None)
        if first is None:
            raise InvalidInput(
                "the upload stream is empty; its first message names upload_id and file", fields={"field": "upload_id"}
            )
        upload = self._uploads.find(tenant, first.upload_id)

        async def chunks() -> AsyncIterator[bytes]:
            yield first.data
            async for chunk in request_iterator:
                yield chunk.data

        received = await self._uploads.receive(upload, first.file, first.offset, chunks())
        return models_pb2.UploadResponse(received=received)

    async def CommitVersion(self, request: models_pb2.CommitVersionRequest, context: Any) -> models_pb2.Model:  # noqa: N802
        tenant = self._resolve(context)
        files = [convert.sealed_file_from_proto(file) for file in request.files]
        return self._show(await self._uploads.commit(tenant, request.upload_id, files, promote=request.promote), tenant)

    async def AbortVersion(  # noqa: N802
        self, request: models_pb2.AbortVersionRequest, context: Any
    ) -> models_pb2.AbortVersionResponse:
        await self._uploads.abort(self._resolve(context), request.upload_id)
        return models_pb2.AbortVersionResponse()

    async def ListModels(self, request: models_pb2.ListModelsRequest, context: Any) -> models_pb2.ListModelsResponse:  # noqa: N802
        tenant, views = self._resolve(context), ModelViews(self._fleet)
        entries = self._control.catalog.models(tenant.id)
        return models_pb2.ListModelsResponse(models=[views.model(entry, tenant) for entry in entries])

    async def GetModel(self, request: models_pb2.GetModelRequest, context: Any) -> models_pb2.Model:  # noqa: N802
        tenant = self._resolve(context)
        return self._show(require_model(self._control.catalog, tenant, request.name), tenant)

    async def PromoteVersion(self, request: models_pb2.PromoteVersionRequest, context: Any) -> models_pb2.Model:  # noqa: N802
        tenant = self._resolve(context)
        return self._show(await self._versions.promote(tenant, request.name, request.version), tenant)

    async def RollbackModel(self, request: models_pb2.RollbackModelRequest, context: Any) -> models_pb2.Model:  # noqa: N802
        tenant = self._resolve(context)
        return self._show(await self._versions.rollback(tenant, request.name), tenant)

    async def DeleteModel(  # noqa: N802
        self, request: models_pb2.DeleteModelRequest, context: Any
    ) -> models_pb2.DeleteModelResponse:
        removed = await self._remover.delete_model(self._resolve(context), request.name, request.version)
        return models_pb2.DeleteModelResponse(versions_removed=removed.versions, blob_bytes_removed=removed.blob_bytes)

    async def SetResidency(self, request: models_pb2.SetResidencyRequest, context: Any) -> models_pb2.Model:  # noqa: N802
        tenant = self._resolve(context)
        entry = await self._versions.set_residency(tenant, request.name, request.version, resident=request.resident)
        return self._show(entry, tenant)

    async def ExplainModel(  # noqa: N802
        self, request: models_pb2.ExplainModelRequest, context: Any
    ) -> models_pb2.ExplainModelResponse:
        tenant, catalog = self._resolve(context), self._control.catalog
        entry = require_model(catalog, tenant, request.name)
        answer = explanation(catalog, entry, tenant, self._fleet, self._control.clock.now())
        answer.slowdowns.extend(self._slowdowns(entry.model.id, tenant.id))
        return answer

    async def ListRequests(  # noqa: N802
        self, request: models_pb2.ListRequestsRequest, context: Any
    ) -> models_pb2.ListRequestsResponse:
        tenant = self._resolve(context)
        found = await self._requests.recent(tenant.id, request.model, request.failed_only, bounded(request.limit))
        return models_pb2.ListRequestsResponse(requests=found)

    async def ExplainRequest(  # noqa: N802
        self, request: models_pb2.ExplainRequestRequest, context: Any
    ) -> models_pb2.ExplainRequestResponse:
        tenant, catalog = self._resolve(context), self._control.catalog
        found = await self._requests.find(tenant.id, request.id)
        if not found:
            raise request_not_found(request.id)
        placement = catalog.placement(found[0].replica)
        why = []
        if placement is not None and placement.tenant_id == tenant.id:
            ready = placement.id in ready_placements(self._fleet)
            stands = standing_decision(placement, self._control.clock.now(), ready=ready)
            why = [decision_view(stands, found[0].model)]
        return models_pb2.ExplainRequestResponse(requests=found, decisions=why)

    async def ListDecisions(  # noqa: N802
        self, request: models_pb2.ListDecisionsRequest, context: Any
    ) -> models_pb2.ListDecisionsResponse:
        tenant, catalog = self._resolve(context), self._control.catalog
        if request.model:
            require_model(catalog, tenant, request.model)
        found = decisions_of(catalog, tenant, request.model, request.kind, request.limit)
        return models_pb2.ListDecisionsResponse(decisions=found)

    async def GetDecision(self, request: models_pb2.GetDecisionRequest, context: Any) -> models_pb2.Decision:  # noqa: N802
        return decision_of(self._control.catalog, self._resolve(context), request.id)

    def _show(self, entry: ModelEntry, tenant: Tenant) -> models_pb2.Model:
        return ModelViews(self._fleet).model(entry, tenant)
