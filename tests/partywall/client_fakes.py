"""A small in-process server for client and CLI tests: it keeps state in memory and can be told to fail."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from typing import Any

import grpc
from admin_fakes import FakeFleet, FakeTenants
from fakes_support import BORN, DATA_KEY, RECORD_ID, Faults
from google.protobuf import message_factory

from partywall import errors
from partywall.client.tensors import from_raw
from partywall.v1 import fleet_pb2_grpc, models_pb2, models_pb2_grpc, tenants_pb2_grpc
from partywall.wire import inference
from partywall.wire.convert import timestamp
from partywall.wire.status import to_status


class FakeInference:
    """Returns its inputs; `empty` outputs on request."""

    def __init__(self, faults: Faults) -> None:
        self.faults = faults
        self.last: Any = None
        self.signature = [("x", "FP32", [-1, 2])]

    def ModelInfer(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        self.faults.check("ModelInfer", context)
        self.last = request
        response = inference.ModelInferResponse(model_name=request.model_name, model_version="1", id=request.id)
        wanted = {output.name for output in request.outputs}
        for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=True):
            from_raw(tensor.name, tensor.datatype, tensor.shape, raw)
            if not wanted or tensor.name in wanted:
                response.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
                response.raw_output_contents.append(raw)
        return response

    def ServerReady(self, _request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        self.faults.check("ServerReady", context)
        return inference.message("ServerReadyResponse")(ready=True)

    def ModelReady(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        self.faults.check("ModelReady", context)
        return inference.message("ModelReadyResponse")(ready=request.name == "echo")

    def ModelMetadata(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        self.faults.check("ModelMetadata", context)
        answer = inference.ModelMetadataResponse(name=request.name, versions=["1"], platform="identity")
        for name, datatype, shape in self.signature:
            answer.inputs.add(name=name, datatype=datatype, shape=shape)
        return answer


class FakeModels(models_pb2_grpc.ModelsServicer):
    """Keeps uploads and versions; `break_after` ends upload streams after so many bytes, one entry per stream."""

    def __init__(self, faults: Faults) -> None:
        self.faults = faults
        self.models: dict[str, models_pb2.Model] = {}
        self.files: dict[str, bytearray] = {}
        self.declared: list[models_pb2.FileDeclaration] = []
        self.break_after: list[int] = []
        self.offsets: list[int] = []
        self.chunk_sizes: list[int] = []
        self.aborted: list[str] = []
        self.states = [models_pb2.VERSION_STATE_LOADING, models_pb2.VERSION_STATE_READY]
        self.reason = ""
        self._begun: Any = None

    def BeginVersion(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.faults.check("BeginVersion", context)
        self._begun = request
        self.declared = list(request.files)
        return models_pb2.BeginVersionResponse(
            upload_id="u1", tenant_id="t-1", version=1, data_key=DATA_KEY, key_record_id=RECORD_ID
        )

    def GetUpload(self, _request: Any, context: Any) -> Any:  # noqa: N802
        self.faults.check("GetUpload", context)
        files = [models_pb2.UploadedFile(name=name, received=len(data)) for name, data in self.files.items()]
        return models_pb2.GetUploadResponse(model=self._begun.model, version=1, files=files)

    def UploadFile(self, request_iterator: Any, context: Any) -> Any:  # noqa: N802
        self.faults.check("UploadFile", context)
        first = next(request_iterator)
        data = self.files.setdefault(first.file, bytearray())
        self.offsets.append(first.offset)
        del data[first.offset :]
        limit = self.break_after.pop(0) if self.break_after else None
        for chunk in request_iterator:
            self.chunk_sizes.append(len(chunk.data))
            data += chunk.data
            if limit is not None and len(data) >= limit:
                context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")
        return models_pb2.UploadResponse(received=len(data))

    def CommitVersion(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.faults.check("CommitVersion", context)
        for file in request.files:
            if hashlib.sha256(self.files[file.name]).digest() != file.sealed_sha256:
                context.abort_with_status(to_status(errors.DataLoss(f"file {file.name!r} does not match its digest")))
        version = models_pb2.Version(version=1, manifest=self._begun.manifest, files=request.files)
        version.created_at.CopyFrom(timestamp(BORN))
        version.state = models_pb2.VERSION_STATE_STORED
        model = models_pb2.Model(name=self._begun.model, tenant="acme", slo_ms=50, versions=[version])
        model.live_version = 1 if request.promote else 0
        self.models[model.name] = model
        return model

    def AbortVersion(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.faults.check("AbortVersion", context)
        self.aborted.append(request.upload_id)
        return models_pb2.AbortVersionResponse()

    def ListModels(self, _request: Any, context: Any) -> Any:  # noqa: N802
        self.faults.check("ListModels", context)
        return models_pb2.ListModelsResponse(models=self.models.values())

    def GetModel(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.faults.check("GetModel", context)
        model = self._model(request.name, context)
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        for version in model.versions:
            version.state, version.reason = state, self.reason
        return model

    def PromoteVersion(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.faults.check("PromoteVersion", context)
        model = self._model(request.name, context)
        model.previous_version, model.live_version = model.live_version, request.version
        return model

    def RollbackModel(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.faults.check("RollbackModel", context)
        model = self._model(request.name, context)
        model.previous_version, model.live_version = model.live_version, model.previous_version
        model.serving_version = model.previous_version
        return model

    def DeleteModel(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.faults.check("DeleteModel", context)
        self._model(request.name, context)
        del self.models[request.name]
        return models_pb2.DeleteModelResponse(versions_removed=1, blob_bytes_removed=9)

    def SetResidency(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.faults.check("SetResidency", context)
        return self._model(request.name, context)

    def ExplainModel(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.faults.check("ExplainModel", context)
        decision = models_pb2.Decision(id="d1", kind="place", subject=request.name, summary="placed on cpu")
        decision.at.CopyFrom(timestamp(BORN))
        decision.alternatives.add(choice="cpu", chosen=True, reason="fits", predicted_finish_ms=1.5)
        return models_pb2.ExplainModelResponse(model=self._model(request.name, context), decisions=[decision])

    def ListRequests(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.faults.check("ListRequests", context)
        traces = [self._trace("r1", "OK"), self._trace("r2", "QUEUE_FULL")]
        return models_pb2.ListRequestsResponse(requests=traces[request.failed_only :])

    def ExplainRequest(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.faults.check("ExplainRequest", context)
        if request.id != "r1":
            context.abort_with_status(to_status(errors.NotFound(f"request {request.id!r} is not remembered")))
        why = models_pb2.Decision(id="place-1", kind="standing", subject="echo", summary="stands on cpu")
        return models_pb2.ExplainRequestResponse(requests=[self._trace("r1", "OK")], decisions=[why])

    def ListDecisions(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.faults.check("ListDecisions", context)
        return models_pb2.ListDecisionsResponse(decisions=[self._decision("decision-1")])

    def GetDecision(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.faults.check("GetDecision", context)
        return self._decision(request.id)

    def _decision(self, name: str) -> models_pb2.Decision:
        decision = models_pb2.Decision(id=name, kind="placement", subject="echo", summary="placed on cpu")
        decision.at.CopyFrom(timestamp(BORN))
        decision.inputs["memory_estimate_bytes"] = "7"
        return decision

    def _trace(self, name: str, outcome: str) -> models_pb2.RequestTrace:
        trace = models_pb2.RequestTrace(
            id=name, model="echo", version=1, outcome=outcome, replica="place-1", attempts=1
        )
        trace.predicted_ms, trace.actual_ms = 4.0, 3.25
        trace.at.CopyFrom(timestamp(BORN))
        return trace

    def _model(self, name: str, context: Any) -> models_pb2.Model:
        if name not in self.models:
            failure = errors.NotFound(f"model {name!r} does not exist", reason=errors.Reason.MODEL_NOT_FOUND)
            context.abort_with_status(to_status(failure))
        return self.models[name]


class FakeServer:
    """All services on one loopback port."""

    def __init__(self) -> None:
        self.faults = Faults()
        self.inference = FakeInference(self.faults)
        self.models = FakeModels(self.faults)
        self.tenants = FakeTenants(self.faults)
        self.fleet = FakeFleet(self.faults)
        self.address = ""
        self.lock = threading.Lock()


@contextmanager
def fake_server(max_message_bytes: int = 4 << 20) -> Iterator[FakeServer]:
    """A running fake; bounded shutdown."""
    fake = FakeServer()
    options = [("grpc.max_receive_message_length", max_message_bytes)]
    server = grpc.server(futures.ThreadPoolExecutor(8), options=options)
    server.add_generic_rpc_handlers((_inference_handler(fake.inference),))
    models_pb2_grpc.add_ModelsServicer_to_server(fake.models, server)
    tenants_pb2_grpc.add_TenantsServicer_to_server(fake.tenants, server)
    fleet_pb2_grpc.add_FleetServicer_to_server(fake.fleet, server)
    fake.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield fake
    finally:
        server.stop(grace=0).wait(10)


def _inference_handler(implementation: FakeInference) -> grpc.GenericRpcHandler:
    handlers = {}
    for method in inference.SERVICE.methods:
        call: Callable[..., Any] | None = getattr(implementation, method.name, None)
        if call is not None:
            handlers[method.name] = grpc.unary_unary_rpc_method_handler(
                call,
                request_deserializer=message_factory.GetMessageClass(method.input_type).FromString,
                response_serializer=message_factory.GetMessageClass(method.output_type).SerializeToString,
            )
    return grpc.method_handlers_generic_handler(inference.SERVICE_NAME, handlers)
