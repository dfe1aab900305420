"""What the simulated server's services share: who may call, and faults on demand."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import grpc

from partywall import errors
from partywall.wire.status import to_status

KEY = "partywall_test_key"
ADMIN_KEY = "operator_test_key"
DATA_KEY = bytes(range(32))
RECORD_ID = "11111111-2222-4333-8444-555555555555"
BORN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

Cli = Callable[..., tuple[int, str, str]]
"""The command line in this process: exit code, standard output, standard error."""


class Faults:
    """Errors to answer with, by method name, one per call."""

    def __init__(self) -> None:
        self.queued: dict[str, list[errors.PartywallError]] = {}
        self.calls: list[str] = []
        self.metadata: dict[str, str] = {}

    def add(self, method: str, *failures: errors.PartywallError) -> None:
        self.queued.setdefault(method, []).extend(failures)

    def check(self, method: str, context: grpc.ServicerContext) -> None:
        self.calls.append(method)
        self.metadata = {key: str(value) for key, value in context.invocation_metadata()}
        if self.metadata.get("authorization") not in (f"Bearer {KEY}", f"Bearer {ADMIN_KEY}"):
            context.abort_with_status(to_status(errors.Unauthenticated("the API key is not known")))
        waiting = self.queued.get(method)
        if waiting:
            context.abort_with_status(to_status(waiting.pop(0)))
