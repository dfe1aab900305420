"""What a device has promised: batches in their order, and loads of its copy engine."""

from __future__ import annotations

from collections.abc import Sequence

NEVER = float("inf")


class PlannedBatch:
    """Requests of one model that will run together. Mutable on purpose: it grows on the hot road."""

    __slots__ = ("deadline_s", "end_s", "model", "ready_s", "requests", "service_s")

    def __init__(self, model: int, request: int, deadline_s: float, service_s: float, ready_s: float) -> None:
        self.model = model
        self.requests = [request]
        self.deadline_s = deadline_s
        self.service_s = service_s
        self.ready_s = ready_s
        self.end_s = 0.0


class PlannedLoad:
    """A load the copy engine will do: it begins at `start_s`, when the victims have left, and is done at `ready_s`."""

    __slots__ = ("model", "ready_s", "start_s", "started", "victims")

    def __init__(self, model: int, victims: Sequence[int], start_s: float, ready_s: float) -> None:
        self.model = model
        self.victims = victims
        self.start_s = start_s
        self.ready_s = ready_s
        self.started = False
