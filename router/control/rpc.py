"""What every control-plane call passes through: errors become rich status, the admin port asks for its credential."""

from __future__ import annotations

import hashlib
import hmac
import inspect
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any, TypeAlias

import grpc
import structlog

from partywall.errors import InternalError, PartywallError, Reason, Unauthenticated
from partywall.wire.status import to_status

REQUEST_ID_KEY = "x-request-id"
AUTHORIZATION_KEY = "authorization"
ADMIN_KEY_PREFIX = "pwadmin_"
BEARER = "Bearer "
MAX_REQUEST_ID_CHARACTERS = 64
# What a load balancer and a developer's tool ask without a credential.
OPEN_SERVICES = ("/grpc.health.v1.Health/", "/grpc.reflection.v1.", "/grpc.reflection.v1alpha.")

# In quotes: at run time these classes take no parameters.
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Continuation: TypeAlias = "Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]]"
Metadata = Iterable[tuple[str, str | bytes]]
_log = structlog.get_logger(__name__)


def metadata_value(metadata: Metadata | None, key: str) -> str:
    """The first value of a metadata key as text; empty where it is absent."""
    for name, value in metadata or ():
        if name == key:
            return value if isinstance(value, str) else value.decode("utf-8", "replace")
    return ""


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """Ends every call that fails as a status with details; cancellation passes through."""

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Handler | None:
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        return None if handler is None else _wrapped(handler, lambda call: _Translated(call, method))


class AdminGuard(grpc.aio.ServerInterceptor):
    """Lets a call through only with the operator's credential, except health and reflection."""

    def __init__(self, digest: bytes) -> None:
        """Args: SHA-256 of the credential, see `admin_digest`."""
        self._digest = digest

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Handler | None:
        handler = await continuation(handler_call_details)
        if handler is None or handler_call_details.method.startswith(OPEN_SERVICES):
            return handler
        refusal = self._refusal(handler_call_details.invocation_metadata)
        return handler if refusal is None else _wrapped(handler, lambda call: _Refused(call, refusal))

    def _refusal(self, metadata: Metadata | None) -> Unauthenticated | None:
        value = metadata_value(metadata, AUTHORIZATION_KEY)
        if not value:
            return Unauthenticated(
                "the admin port needs metadata 'authorization: Bearer <admin key>'; the key is in DATA_DIR/admin.key",
                reason=Reason.NO_CREDENTIAL,
            )
        if not value.startswith(BEARER) or not hmac.compare_digest(admin_digest(value[len(BEARER) :]), self._digest):
            return Unauthenticated(
                "the admin key is not this router's; use the one in its DATA_DIR/admin.key (a tenant's key does not "
                "open the admin port)"
            )
        return None


def admin_digest(key: str) -> bytes:
    """SHA-256 of an admin key as text; what the guard compares."""
    return hashlib.sha256(key.strip().encode()).digest()


def as_partywall_error(failure: Exception, method: str, request_id: str) -> PartywallError:
    """A failure as its caller sees it; what we did not raise on purpose is logged and reads INTERNAL."""
    if isinstance(failure, PartywallError):
        return failure
    _log.error("call failed", method=method, request_id=request_id, exc_info=failure)
    return InternalError(
        f"the router failed on this call; its log has the cause under request id {request_id}",
        fields={"request_id": request_id},
    )


class _Translated:
    """One call with its errors turned into status."""

    def __init__(self, call: Callable[[Any, Context], Any], method: str) -> None:
        self._call = call
        self._method = method

    async def unary(self, request: Any, context: Context) -> Any:
        try:
            return await self._call(request, context)
        except grpc.aio.AbortError:
            raise
        except Exception as failure:
            await self._abort(failure, context)

    async def stream(self, request: Any, context: Context) -> AsyncIterator[Any]:
        try:
            async for item in self._call(request, context):
                yield item
        except grpc.aio.AbortError:
            raise
        except Exception as failure:
            await self._abort(failure, context)

    async def _abort(self, failure: Exception, context: Context) -> None:
        given = metadata_value(context.invocation_metadata(), REQUEST_ID_KEY)[:MAX_REQUEST_ID_CHARACTERS]
        error = as_partywall_error(failure, self._method, given or uuid.uuid4().hex)
        status = to_status(error)
        await context.abort(status.code, status.details, status.trailing_metadata or ())


class _Refused:
    """A call that is refused before it starts."""

    def __init__(self, call: Callable[[Any, Context], Any], refusal: PartywallError) -> None:
        self._refusal = refusal

    async def unary(self, request: Any, context: Context) -> Any:
        return self._refuse()

    async def stream(self, request: Any, context: Context) -> AsyncIterator[Any]:
        yield self._refuse()

    def _refuse(self) -> Any:
        raise self._refusal


def _wrapped(handler: Handler, wrap: Callable[[Callable[[Any, Context], Any]], _Translated | _Refused]) -> Handler:
    """The same handler around another behaviour, whichever of gRPC's four kinds it is."""
    for kind in ("unary_unary", "stream_unary", "unary_stream", "stream_stream"):
        behaviour = getattr(handler, kind)
        if behaviour is None:
            continue
        around = wrap(behaviour)
        # A streaming handler may also be a coroutine that writes to its context.
        generates = inspect.isasyncgenfunction(behaviour)
        make = getattr(grpc, f"{kind}_rpc_method_handler")
        made: Handler = make(
            around.stream if generates else around.unary,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )
        return made
    return handler


def translated(handler: Handler, method: str) -> Handler:
    """One handler with its errors turned into status, for servers that want no interceptor on their hot road."""
    return _wrapped(handler, lambda call: _Translated(call, method))
