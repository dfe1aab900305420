"""What a client can do, as flows: the part that `Client` and `AsyncClient` share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from partywall.client.flow import INFERENCE, MODELS, Caller, Flow
from partywall.client.push import PushRequest, push_version, wait_ready
from partywall.client.tensors import TensorInput, as_array, datatype_of, to_raw
from partywall.client.views import InferResult, ModelInfo, ModelMetadata, infer_result, model_info, model_metadata
from partywall.domain.models import Manifest
from partywall.domain.names import check_model_name
from partywall.errors import InvalidInput
from partywall.v1 import models_pb2
from partywall.wire import inference

DEFAULT_WAIT_S = 300.0


class Operations:
    """Flows over one `Caller`."""

    def __init__(self, caller: Caller) -> None:
        self.caller = caller

    def infer(
        self,
        model: str,
        inputs: Mapping[str, TensorInput],
        *,
        version: str = "",
        outputs: Sequence[str] | None = None,
        deadline_s: float | None = None,
        request_id: str | None = None,
    ) -> Flow[InferResult]:
        check_deadline(deadline_s, "deadline_s")
        request = infer_request(model, inputs, version=version, outputs=outputs, request_id=request_id)
        response = yield from self.caller.call(INFERENCE["ModelInfer"], request, timeout_s=deadline_s)
        return infer_result(response)

    def ready(self, model: str | None, version: str) -> Flow[bool]:
        if model is None:
            method, name = INFERENCE["ServerReady"], "ServerReadyRequest"
            request = inference.message(name)()
        else:
            method, name = INFERENCE["ModelReady"], "ModelReadyRequest"
            request = inference.message(name)(name=check_model_name(model), version=version)
        answer = yield from self.caller.call(method, request, idempotent=True)
        return bool(answer.ready)

    def metadata(self, model: str, version: str) -> Flow[ModelMetadata]:
        request = inference.message("ModelMetadataRequest")(name=check_model_name(model), version=version)
        return model_metadata((yield from self.caller.call(INFERENCE["ModelMetadata"], request, idempotent=True)))

    def models(self) -> Flow[tuple[ModelInfo, ...]]:
        request = models_pb2.ListModelsRequest()
        answer = yield from self.caller.call(MODELS["ListModels"], request, idempotent=True)
        return tuple(model_info(message) for message in answer.models)

    def push(self, request: PushRequest, *, wait_s: float | None) -> Flow[tuple[ModelInfo, int]]:
        info, version = yield from push_version(self.caller, request)
        if wait_s is not None:
            info = yield from wait_ready(self.caller, request.model, version, wait_s)
        return info, version


def infer_request(
    model: str,
    inputs: Mapping[str, TensorInput],
    *,
    version: str = "",
    outputs: Sequence[str] | None = None,
    request_id: str | None = None,
) -> Any:
    """An `inference.ModelInferRequest` with raw contents.

    Raises:
        InvalidInput: A name or a tensor does not do.
    """
    if not inputs:
        raise InvalidInput("inputs is empty: give at least one tensor by name", fields={"field": "inputs"})
    request = inference.ModelInferRequest(model_name=check_model_name(model), model_version=version)
    if request_id is not None:
        request.id = request_id
    for name, value in inputs.items():
        array = as_array(name, value)
        request.inputs.add(name=name, datatype=datatype_of(name, array), shape=array.shape)
        request.raw_input_contents.append(to_raw(name, array))
    for name in outputs or ():
        request.outputs.add(name=name)
    return request


def manifest(
    engine: str,
    *,
    slo_ms: int,
    options: Mapping[str, str] | None = None,
    share_percent: int = 0,
    memory_bytes: int = 0,
    max_batch: int = 0,
    side_effects: bool = False,
    cold_start: bool = False,
) -> Manifest:
    """A checked manifest.

    Raises:
        InvalidInput: Names the field.
    """
    if not engine:
        raise InvalidInput("engine is empty: use transformers, module or identity", fields={"field": "engine"})
    limits = (
        ("slo_ms", slo_ms, 1, 2**32 - 1),
        ("share_percent", share_percent, 0, 100),
        ("max_batch", max_batch, 0, 2**32 - 1),
        ("memory_bytes", memory_bytes, 0, 2**63),
    )
    for name, value, low, high in limits:
        if not low <= value <= high:
            raise InvalidInput(f"{name} must be {low} to {high}, got {value}", fields={"field": name})
    return Manifest(
        engine, dict(options or {}), slo_ms, share_percent, memory_bytes, max_batch, side_effects, cold_start
    )


MOST_DEADLINE_S = 1e9
"""Thirty years; beyond some hundred, gRPC's clock overflows and a call ends at once with DEADLINE_EXCEEDED."""


def check_deadline(seconds: float | None, field: str) -> None:
    """A time-out in seconds, or None for the client's own.

    Raises:
        InvalidInput: Not above zero, or more than `MOST_DEADLINE_S`.
    """
    if seconds is not None and not 0 < seconds <= MOST_DEADLINE_S:
        raise InvalidInput(
            f"{field} must be above zero and at most {MOST_DEADLINE_S:.0f} s, got {seconds}; leave it out for the "
            "client's own",
            fields={"field": field},
        )
