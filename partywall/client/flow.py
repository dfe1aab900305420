"""Client logic without I/O: flows ask for actions, and a transport performs them.

A flow is a generator that yields what it wants done (a call, an upload, a pause) and gets the answer, or a
`PartywallError`, at the yield. `Client` and `AsyncClient` drive the same flows.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeAlias, TypeVar

from google.protobuf import message_factory
from google.protobuf.descriptor import FileDescriptor

from partywall.client.retry import RetryBudget, RetryPolicy
from partywall.clock import Clock
from partywall.errors import DeadlineExceeded, PartywallError
from partywall.v1 import fleet_pb2, models_pb2, profiles_pb2, tenants_pb2
from partywall.wire import inference

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Method:
    """One RPC: its path and its codec. `streams` is true where the client sends a stream."""

    path: str
    serialise: Callable[[Any], bytes]
    deserialise: Callable[[bytes], Any]
    streams: bool = False


@dataclass(frozen=True, slots=True)
class Call:
    """One request, one answer. `idempotent`: may be repeated even where it may have been executed."""

    method: Method
    request: Any
    timeout_s: float
    idempotent: bool = False


class MessageSource(Protocol):
    """Messages of one upload attempt. `failure` is what ended the iteration early on this side."""

    failure: Exception | None

    def __iter__(self) -> Iterator[Any]: ...


@dataclass(frozen=True, slots=True)
class Upload:
    """A stream of requests, one answer. Iterating `messages` may block."""

    method: Method
    messages: MessageSource
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Sleep:
    """A pause."""

    seconds: float


Action: TypeAlias = Call | Upload | Sleep
Flow: TypeAlias = Generator[Action, Any, T]


class Caller:
    """Calls with a deadline, retries and one retry budget for everything a client sends."""

    def __init__(
        self,
        clock: Clock,
        *,
        timeout_s: float,
        policy: RetryPolicy | None = None,
        budget: RetryBudget | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.clock = clock
        self.timeout_s = timeout_s
        self._policy = policy or RetryPolicy()
        self._budget = budget or RetryBudget(clock)
        self._rng = rng or random.Random()  # noqa: S311 - jitter, not a secret

    def call(
        self, method: Method, request: Any, *, idempotent: bool = False, timeout_s: float | None = None
    ) -> Flow[Any]:
        """One call with its retries. All tries together fit into the time-out."""
        seconds = self.timeout_s if timeout_s is None else timeout_s
        deadline = self.clock.monotonic() + seconds
        call = Call(method, request, seconds, idempotent)
        self._budget.deposit()
        tries = 0
        while True:
            tries += 1
            try:
                return (yield call)
            except PartywallError as error:
                delay_s = self._policy.delay_s(
                    error,
                    tries=tries,
                    time_left_s=deadline - self.clock.monotonic(),
                    idempotent=idempotent,
                    rng=self._rng,
                )
                if delay_s is None or not self._budget.try_withdraw():
                    raise
            yield Sleep(delay_s)
            left_s = deadline - self.clock.monotonic()
            if left_s <= 0:
                raise DeadlineExceeded(f"the deadline of {seconds:g} s passed before another try could be sent")
            call = replace(call, timeout_s=left_s)


def _methods(file: FileDescriptor, service: str) -> dict[str, Method]:
    descriptor = file.services_by_name[service]
    return {
        method.name: Method(
            f"/{descriptor.full_name}/{method.name}",
            message_factory.GetMessageClass(method.input_type).SerializeToString,
            message_factory.GetMessageClass(method.output_type).FromString,
            method.client_streaming,
        )
        for method in descriptor.methods
    }


INFERENCE = {name: Method(*inference.method_codec(name)) for name in inference.SERVICE.methods_by_name}
MODELS = _methods(models_pb2.DESCRIPTOR, "Models")
TENANTS = _methods(tenants_pb2.DESCRIPTOR, "Tenants")
PROFILES = _methods(profiles_pb2.DESCRIPTOR, "Profiles")
FLEET = _methods(fleet_pb2.DESCRIPTOR, "Fleet")
