"""Every error crosses gRPC and comes back as itself."""

from __future__ import annotations

import grpc
import pytest

from partywall import errors
from partywall.wire import convert
from partywall.wire.status import STATUS, broke_while_sending, from_rpc_error, status_code, to_status


class Failure(grpc.RpcError):
    """A failed call as a client sees it."""

    def __init__(self, code: grpc.StatusCode, text: str, trailing: tuple[tuple[str, bytes], ...] = ()) -> None:
        self._code, self._text, self._trailing = code, text, trailing

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._text

    def trailing_metadata(self) -> tuple[tuple[str, bytes], ...]:
        return self._trailing


@pytest.mark.parametrize("reason", list(errors.Reason))
def test_round_trip(reason: errors.Reason) -> None:
    sent = errors.error_from_reason(reason.value, "what to do", fields={"field": "x"}, retry_after_s=0.25)
    status = to_status(sent)
    back = from_rpc_error(Failure(status.code, status.details, tuple(status.trailing_metadata)))
    assert type(back) is type(sent)
    assert (back.reason, back.message, back.fields, back.retry_after_s) == (reason, "what to do", {"field": "x"}, 0.25)


def test_a_status_fits_into_metadata_whatever_the_caller_sent() -> None:
    error = errors.InvalidInput("ä" * 5000, fields={f"field{n}": "x" * 5000 for n in range(50)})
    status = to_status(error)
    text, details = status.details or "", dict(status.trailing_metadata)["grpc-status-details-bin"]
    # gRPC writes each byte that is not ASCII as three characters.
    assert 3 * len(text.encode()) + len(details) < 8 << 10
    back = from_rpc_error(Failure(status.code, text, tuple(status.trailing_metadata)))
    assert isinstance(back, errors.InvalidInput)
    assert back.message == "ä" * 510 + "..."
    assert back.fields["field0"] == "x" * 253 + "..."


def test_details_that_are_not_ours_are_passed_over() -> None:
    failure = Failure(grpc.StatusCode.NOT_FOUND, "gone", (("grpc-status-details-bin", b"\xff\xff"),))
    back = from_rpc_error(failure)
    assert isinstance(back, errors.NotFound)
    assert back.message == "gone"


@pytest.mark.parametrize("reason", list(errors.Reason))
def test_round_trip_over_the_link(reason: errors.Reason) -> None:
    sent = errors.error_from_reason(reason.value, "what to do", fields={"a": "b"}, retry_after_s=0.25)
    back = convert.error_from_proto(convert.error_to_proto(sent))
    assert (type(back), back.reason, back.fields, back.retry_after_s) == (type(sent), reason, {"a": "b"}, 0.25)


def test_every_class_has_a_status() -> None:
    def leaves(cls: type[errors.PartywallError]) -> list[type[errors.PartywallError]]:
        return [cls, *(leaf for sub in cls.__subclasses__() for leaf in leaves(sub))]

    # Other packages may refine a family; theirs go by the nearest class in the table.
    ours = {cls for cls in leaves(errors.PartywallError) if cls.__module__ == errors.__name__}
    assert ours - {errors.PartywallError} == set(STATUS)
    assert status_code(errors.PartywallError("?")) is grpc.StatusCode.INTERNAL


def test_a_status_without_details_still_has_a_type() -> None:
    back = from_rpc_error(Failure(grpc.StatusCode.UNAVAILABLE, "connection refused"))
    assert isinstance(back, errors.Unavailable)
    assert back.reason is errors.Reason.UNREACHABLE
    assert isinstance(from_rpc_error(Failure(grpc.StatusCode.UNKNOWN, "")), errors.InternalError)


def test_an_unknown_reason_is_kept_as_data() -> None:
    error = errors.error_from_reason("FROM_THE_FUTURE", "text")
    assert isinstance(error, errors.InternalError)
    assert error.fields == {"reason": "FROM_THE_FUTURE"}


@pytest.mark.parametrize(
    ("code", "text", "broke"),
    [
        (grpc.StatusCode.INTERNAL, "Internal error from Core", True),
        (grpc.StatusCode.INTERNAL, "the model failed", False),
        (grpc.StatusCode.UNAVAILABLE, "Internal error from Core", False),
    ],
)
def test_a_send_that_broke_is_told_from_a_failure_of_the_server(
    code: grpc.StatusCode, text: str, *, broke: bool
) -> None:
    nothing = grpc.aio.Metadata()
    assert broke_while_sending(grpc.aio.AioRpcError(code, nothing, nothing, text)) is broke


def test_a_port_that_does_not_know_the_call_is_said() -> None:
    back = from_rpc_error(Failure(grpc.StatusCode.UNIMPLEMENTED, "Method not found!"))
    assert isinstance(back, errors.Unsupported)
    assert "does not offer that call (Method not found!); the public and the admin port differ" in back.message
