"""The Open Inference Protocol's service: all 20 methods that Triton's clients call."""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, NoReturn

import grpc
import structlog
from google.protobuf import message_factory

from partywall import __version__
from partywall.clock import Clock
from partywall.domain.tenants import Tenant
from partywall.errors import InternalError, InvalidInput, PartywallError, Reason, Unavailable, Unsupported
from partywall.wire import inference as oip
from partywall.wire.status import to_status
from router.gateway.authn import Authenticator
from router.gateway.counters import ModelCounters
from router.gateway.describe import describe_config, describe_metadata, describe_statistics, repository_index
from router.gateway.dispatch import Dispatcher
from router.gateway.handlers import Metadata, ServiceHandlers
from router.gateway.methods import UNSUPPORTED, python_name, version_parameter
from router.gateway.replicas import ModelRoute
from router.gateway.requests import ParsedRequest, parse_request
from router.gateway.streams import AnswersInOrder

log = structlog.get_logger(__name__)

Residency = Callable[[Tenant, str, int, bool, float | None], Awaitable[None]]
"""Makes a version (0: the live one) resident or releases it, and waits until that is so: (tenant, model, version,
resident, seconds left)."""

Counters = Callable[[str], Awaitable[Mapping[tuple[str, str, int], ModelCounters]]]
"""A tenant's counters, over all processes of the router, by (tenant id, model, version)."""


class InferenceService:
    """Handlers by method name; `handler` makes a generic gRPC handler of them."""

    def __init__(
        self,
        authenticator: Authenticator,
        dispatcher: Dispatcher,
        routes: Callable[[], Mapping[tuple[str, str], ModelRoute]],
        residency: Residency,
        counters: Counters,
        ready: Callable[[], bool],
        clock: Clock,
        *,
        max_message_bytes: int,
    ) -> None:
        self._max_message_bytes = max_message_bytes
        self._authenticator = authenticator
        self._dispatcher = dispatcher
        self._routes = routes
        self._residency = residency
        self._counters = counters
        self._ready = ready
        self._clock = clock
        self._draining = False
        self._boot = secrets.token_hex(4)
        self._calls = itertools.count(1)

    def handler(self) -> grpc.GenericRpcHandler:
        """`ModelInfer` keeps its bytes: they go on to the worker as they came."""
        methods: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
        for method in oip.SERVICE.methods:
            request = message_factory.GetMessageClass(method.input_type)
            response = message_factory.GetMessageClass(method.output_type)
            if method.name == "ModelInfer":
                continue
            if method.client_streaming:
                methods[method.name] = grpc.stream_stream_rpc_method_handler(
                    self.model_stream_infer, response_serializer=response.SerializeToString
                )
            else:
                methods[method.name] = grpc.unary_unary_rpc_method_handler(
                    self._guarded(method.name),
                    request_deserializer=request.FromString,
                    response_serializer=response.SerializeToString,
                )
        return ServiceHandlers(oip.SERVICE_NAME, methods, "ModelInfer", self.model_infer)

    def start_draining(self) -> None:
        """Refuses new requests from now on, with a reason; those that were accepted are finished."""
        self._draining = True

    async def model_infer(
        self, metadata: Metadata, raw: bytes, context: grpc.aio.ServicerContext[bytes, bytes]
    ) -> bytes:
        try:
            tenant = self._authenticator.tenant(metadata)
            parsed = self._parse(raw)
            return await self._dispatcher.infer(
                tenant, raw, parsed, context.time_remaining(), parsed[0].id or self._request_id()
            )
        except PartywallError as error:
            await self._abort(context, error)
        except Exception as error:
            await self._abort(context, self._defect(error, "ModelInfer"))

    async def model_stream_infer(
        self, requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext[bytes, Any]
    ) -> AsyncIterator[Any]:
        """One answer per request, in order; a refused request is answered with its error and the stream goes on.

        The caller is looked up for each request: a key that is revoked ends nothing that runs, and starts nothing more.
        """
        metadata = tuple(context.invocation_metadata() or ())
        try:
            self._authenticator.tenant(metadata)
        except PartywallError as error:
            await self._abort(context, error)
        stream = AnswersInOrder(lambda raw: self._stream_one(metadata, raw, context.time_remaining()))
        reader = asyncio.create_task(stream.read(requests))
        try:
            async for answer in stream.answers():
                yield answer
            await reader
        finally:
            reader.cancel()
            stream.cancel()

    async def _stream_one(self, metadata: Metadata, raw: bytes, remaining_s: float | None) -> Any:
        request_id = ""
        try:
            parsed = self._parse(raw)
            request_id = parsed[0].id
            tenant = self._authenticator.tenant(metadata)
            answer = await self._dispatcher.infer(tenant, raw, parsed, remaining_s, request_id or self._request_id())
            return oip.ModelStreamInferResponse(infer_response=oip.ModelInferResponse.FromString(answer))
        except PartywallError as error:
            failure = error
        except Exception as error:
            failure = self._defect(error, "ModelStreamInfer")
        return oip.ModelStreamInferResponse(
            error_message=f"[{failure.reason.value}] {failure.message}",
            infer_response=oip.ModelInferResponse(id=request_id),
        )

    # One coroutine per remaining method, named as the protocol names it.
    async def server_live(self, tenant: Tenant | None, request: Any, remaining_s: float | None) -> dict[str, Any]:
        return {"live": True}

    async def server_ready(self, tenant: Tenant | None, request: Any, remaining_s: float | None) -> dict[str, Any]:
        return {"ready": self._ready()}

    async def server_metadata(self, tenant: Tenant | None, request: Any, remaining_s: float | None) -> dict[str, Any]:
        return {
            "name": "partywall",
            "version": __version__,
            "extensions": ["model_repository", "model_configuration", "statistics", "binary_tensor_data"],
        }

    async def model_ready(self, tenant: Tenant, request: Any, remaining_s: float | None) -> dict[str, Any]:
        return {"ready": bool(self._dispatcher.route(tenant, request.name, request.version).replicas)}

    async def model_metadata(self, tenant: Tenant, request: Any, remaining_s: float | None) -> dict[str, Any]:
        route = self._dispatcher.route(tenant, request.name, request.version)
        return describe_metadata(request.name, self._routes()[tenant.id, request.name], route)

    async def model_config(self, tenant: Tenant, request: Any, remaining_s: float | None) -> dict[str, Any]:
        route = self._dispatcher.route(tenant, request.name, request.version)
        return {"config": describe_config(request.name, route)}

    async def model_statistics(self, tenant: Tenant, request: Any, remaining_s: float | None) -> dict[str, Any]:
        if request.name:
            self._dispatcher.route(tenant, request.name, request.version)
        counters = await self._counters(tenant.id)
        return {"model_stats": describe_statistics(counters, tenant.id, request.name, request.version)}

    async def repository_index(self, tenant: Tenant, request: Any, remaining_s: float | None) -> dict[str, Any]:
        return {"models": repository_index(self._routes(), tenant.id, only_ready=request.ready)}

    async def repository_model_load(self, tenant: Tenant, request: Any, remaining_s: float | None) -> dict[str, Any]:
        version = version_parameter(request)
        self._dispatcher.route(tenant, request.model_name, str(version) if version else "")
        await self._residency(tenant, request.model_name, version, True, remaining_s)
        return {}

    async def repository_model_unload(self, tenant: Tenant, request: Any, remaining_s: float | None) -> dict[str, Any]:
        version = version_parameter(request)
        self._dispatcher.route(tenant, request.model_name, str(version) if version else "")
        await self._residency(tenant, request.model_name, version, False, remaining_s)
        return {}

    def _guarded(self, name: str) -> Callable[[Any, grpc.aio.ServicerContext[Any, Any]], Awaitable[Any]]:
        """A method with authentication and the error table around it."""
        response = message_factory.GetMessageClass(oip.SERVICE.methods_by_name[name].output_type)
        open_to_all = name in ("ServerLive", "ServerReady", "ServerMetadata")
        method = None if name in UNSUPPORTED else getattr(self, python_name(name))

        async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            try:
                if method is None:
                    raise Unsupported(f"{name}: {UNSUPPORTED[name]}")
                tenant = None if open_to_all else self._authenticator.tenant(context.invocation_metadata())
                return response(**await method(tenant, request, context.time_remaining()))
            except PartywallError as error:
                await self._abort(context, error)
            except Exception as error:
                await self._abort(context, self._defect(error, name))

        return call

    def _parse(self, raw: bytes) -> ParsedRequest:
        if self._draining:
            raise Unavailable(
                "this router is being stopped; send the request again", reason=Reason.DRAINING, retry_after_s=1.0
            )
        if len(raw) > self._max_message_bytes:
            raise InvalidInput(
                f"the request has {len(raw)} bytes and the router takes {self._max_message_bytes}; send smaller "
                "batches, or ask the operator for more (--max-message-bytes)",
                reason=Reason.MESSAGE_TOO_LARGE,
                fields={"limit_bytes": str(self._max_message_bytes)},
            )
        return parse_request(oip.ModelInferRequest, raw)

    async def _abort(self, context: grpc.aio.ServicerContext[Any, Any], error: PartywallError) -> NoReturn:
        await context.abort_with_status(to_status(error))

    def _defect(self, error: Exception, method: str) -> InternalError:
        request_id = self._request_id()
        log.error("unexpected failure", method=method, request_id=request_id, exc_info=error)
        return InternalError(
            f"an internal error; the router's log has it under request {request_id}", fields={"request_id": request_id}
        )

    def _request_id(self) -> str:
        return f"{self._boot}-{next(self._calls):x}"
