"""An inference request as it came, read as far as the router needs it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from partywall.errors import InvalidInput
from partywall.wire.split import split_raw

ParsedRequest: TypeAlias = tuple[Any, Sequence[int]]
"""A parsed `inference.ModelInferRequest`, perhaps without its raw contents, and the bytes of each of those."""

SPLIT_ABOVE_BYTES = 32 << 10
"""Below, parsing a request whole costs less than finding its parts."""


def parse_request(message: Any, raw: bytes) -> ParsedRequest:
    """Parses a serialised request; raw contents of large ones are measured where they lie, not copied.

    Raises:
        InvalidInput: Not a ModelInferRequest.
    """
    try:
        if len(raw) <= SPLIT_ABOVE_BYTES:
            request = message.FromString(raw)
            return request, [len(one) for one in request.raw_input_contents]
        head, contents = split_raw(memoryview(raw))
        return message.FromString(head), [len(one) for one in contents]
    except Exception as error:  # protobuf's DecodeError has no stable place across its major versions
        raise InvalidInput(f"the request is not a ModelInferRequest: {error}") from error
