"""Errors across gRPC: the one table from classes to status codes, and the rich details both ways."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import cast

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from partywall import errors

DOMAIN = "partywall"
DETAILS_KEY = "grpc-status-details-bin"
# Status travels as metadata, of which gRPC takes 8 KiB by default: a call with more ends without its reason. Messages
# name what the caller sent, and that may be anything.
MOST_MESSAGE_BYTES = 1024
MOST_FIELD_BYTES = 256
MOST_FIELDS = 8

STATUS: dict[type[errors.PartywallError], grpc.StatusCode] = {
    errors.InvalidInput: grpc.StatusCode.INVALID_ARGUMENT,
    errors.ArtifactRefused: grpc.StatusCode.INVALID_ARGUMENT,
    errors.Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    errors.PermissionDenied: grpc.StatusCode.PERMISSION_DENIED,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.AlreadyExists: grpc.StatusCode.ALREADY_EXISTS,
    errors.Conflict: grpc.StatusCode.ABORTED,
    errors.QuotaExceeded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.NotReady: grpc.StatusCode.FAILED_PRECONDITION,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
    errors.DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.DataLoss: grpc.StatusCode.DATA_LOSS,
    errors.Unsupported: grpc.StatusCode.UNIMPLEMENTED,
    errors.InternalError: grpc.StatusCode.INTERNAL,
}

# For servers that send no details (a proxy, a size limit inside gRPC itself).
_REASON_BY_CODE: dict[grpc.StatusCode, errors.Reason] = {
    grpc.StatusCode.INVALID_ARGUMENT: errors.Reason.INVALID_ARGUMENT,
    grpc.StatusCode.UNAUTHENTICATED: errors.Reason.BAD_CREDENTIAL,
    grpc.StatusCode.PERMISSION_DENIED: errors.Reason.PERMISSION_DENIED,
    grpc.StatusCode.NOT_FOUND: errors.Reason.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS: errors.Reason.ALREADY_EXISTS,
    grpc.StatusCode.ABORTED: errors.Reason.CONFLICT,
    # gRPC's own limits (message size, streams) carry no ErrorInfo: never a quota of ours.
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.Reason.MESSAGE_TOO_LARGE,
    grpc.StatusCode.FAILED_PRECONDITION: errors.Reason.WRONG_STATE,
    grpc.StatusCode.UNAVAILABLE: errors.Reason.UNREACHABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.Reason.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED: errors.Reason.CANCELLED,
    grpc.StatusCode.DATA_LOSS: errors.Reason.SEAL_BROKEN,
    grpc.StatusCode.UNIMPLEMENTED: errors.Reason.UNSUPPORTED,
}

_SEND_FAILED = "Internal error from Core"


def status_code(error: errors.PartywallError) -> grpc.StatusCode:
    """The gRPC code of an error, by its nearest class in the table."""
    for cls in type(error).__mro__:
        if cls in STATUS:
            return STATUS[cls]
    return grpc.StatusCode.INTERNAL


def to_status(error: errors.PartywallError) -> grpc.Status:
    """The error with `google.rpc.ErrorInfo`, and `RetryInfo` where there is a hint; cut to what metadata may hold."""
    code = status_code(error)
    proto = status_pb2.Status(code=code.value[0], message=_cut(error.message, MOST_MESSAGE_BYTES))
    fields = {k: _cut(v, MOST_FIELD_BYTES) for k, v in islice(error.fields.items(), MOST_FIELDS)}
    info = error_details_pb2.ErrorInfo(reason=error.reason.value, domain=DOMAIN, metadata=fields)
    _pack(proto, info)
    if error.retry_after_s is not None:
        delay = duration_pb2.Duration()
        delay.FromMicroseconds(max(0, round(error.retry_after_s * 1e6)))
        _pack(proto, error_details_pb2.RetryInfo(retry_delay=delay))
    return rpc_status.to_status(proto)


def from_rpc_error(failure: grpc.RpcError) -> errors.PartywallError:
    """The typed error behind a failed call; works for sync and asyncio calls."""
    code, text = failure.code(), failure.details() or ""
    status = _details(failure)
    if status is None:
        if code is grpc.StatusCode.UNIMPLEMENTED:
            # gRPC's own word: our services give details.
            text = f"the server at this address does not offer that call ({text}); the public and the admin port differ"
        return errors.error_from_reason(_REASON_BY_CODE.get(code, errors.Reason.INTERNAL), text or str(code))
    info, retry_after_s = error_details_pb2.ErrorInfo(), None
    for detail in status.details:
        if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            detail.Unpack(info)
        elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            hint = error_details_pb2.RetryInfo()
            detail.Unpack(hint)
            retry_after_s = hint.retry_delay.ToMicroseconds() / 1e6
    reason = info.reason or _REASON_BY_CODE.get(code, errors.Reason.INTERNAL)
    return errors.error_from_reason(reason, status.message, fields=dict(info.metadata), retry_after_s=retry_after_s)


def broke_while_sending(failure: grpc.RpcError) -> bool:
    """Whether an asyncio call failed here because its connection ended under a message that was being sent.

    gRPC says INTERNAL then, in words of its own and without the status that the other side may have given.
    """
    return failure.code() is grpc.StatusCode.INTERNAL and failure.details() == _SEND_FAILED


def _cut(text: str, most_bytes: int) -> str:
    # Characters have at least a byte: most texts need not be encoded to be seen to fit.
    if len(text) * 4 <= most_bytes or len(raw := text.encode("utf-8", "replace")) <= most_bytes:
        return text
    return raw[: most_bytes - 3].decode("utf-8", "ignore") + "..."


def _pack(proto: status_pb2.Status, detail: error_details_pb2.ErrorInfo | error_details_pb2.RetryInfo) -> None:
    packed = any_pb2.Any()
    packed.Pack(detail)
    proto.details.append(packed)


def _details(failure: grpc.RpcError) -> status_pb2.Status | None:
    for key, value in cast("Iterable[tuple[str, str | bytes]]", failure.trailing_metadata() or ()):
        if key == DETAILS_KEY:
            try:
                return status_pb2.Status.FromString(value if isinstance(value, bytes) else value.encode("latin-1"))
            except DecodeError:
                # Not ours: the status itself still says what it can.
                return None
    return None
