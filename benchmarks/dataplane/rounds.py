"""Interleaved rounds: every round measures every server once, so that the machine's noise hits them alike."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.dataplane import payload
from benchmarks.dataplane.load import Client, Outcome, Shape
from benchmarks.dataplane.processes import busy_s, children_cpu_s, cpu_s
from benchmarks.dataplane.servers import Server

WARM_REQUESTS = 1500
LEAST_REQUESTS = 256


@dataclass(frozen=True, slots=True)
class Sample:
    """One run of one shape on one server; CPU in microseconds per request by role."""

    server: str
    outcome: Outcome
    cpu_us: Mapping[str, float]
    client_us: float
    foreign_cores: float
    """Cores that were busy with neither the server nor the client."""

    @property
    def total_us(self) -> float:
        return sum(self.cpu_us.values())


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and range over the rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        kept = list(values)
        return cls(statistics.median(kept), min(kept), max(kept))

    def text(self, digits: int = 0) -> str:
        return f"{self.median:.{digits}f} ({self.low:.{digits}f} to {self.high:.{digits}f})"


def take(server: Server, client: Client, shape: Shape, requests: int) -> Sample:
    """Runs one load and reads what it cost.

    Raises:
        AssertionError: A request failed, or the server counts other answers than the client.
    """
    counted, busy = server.answered(), busy_s()
    before = {role: cpu_s(pids) for role, pids in server.groups.items()}
    client_before = children_cpu_s()
    outcome = client.run(server, shape, requests)
    client_s = children_cpu_s() - client_before
    used = {role: cpu_s(pids) - before[role] for role, pids in server.groups.items()}
    foreign_s = busy_s() - busy - client_s - sum(used.values())
    assert outcome.failed == 0, f"{outcome.failed} of {requests} requests to {server.name} failed"
    _compare(server, counted, outcome)
    return Sample(
        server.name,
        outcome,
        {role: seconds / outcome.completed * 1e6 for role, seconds in used.items()},
        client_s / outcome.completed * 1e6,
        max(0.0, foreign_s / outcome.seconds),
    )


def _compare(server: Server, counted: int | None, outcome: Outcome) -> None:
    """A refusal is an HTTP 200 too: only the server's own count tells answers from refusals."""
    if counted is not None:
        answered = (server.answered() or 0) - counted
        assert answered == outcome.completed, f"{server.name} answered {answered} of {outcome.completed} requests"


def interleave(
    servers: Sequence[Server],
    client: Client,
    shape: Shape,
    *,
    rounds: int,
    seconds: float,
    note: Callable[[str], None],
) -> list[list[Sample]]:
    """Samples by round, then by server. Each run takes about `seconds`; the order turns around every round."""
    request = payload.request_bytes(shape.values)
    requests = {}
    for server in servers:
        server.probe(request)
        requests[server.name] = _enough(server, client, shape, seconds)
    samples: list[list[Sample]] = []
    for number in range(rounds):
        order = servers if number % 2 == 0 else tuple(reversed(servers))
        taken = {s.name: take(s, client, shape, requests[s.name]) for s in order}
        samples.append([taken[s.name] for s in servers])
        note("  ".join(f"{s.server} {s.total_us:.0f} us" for s in samples[-1]))
    for server in servers:
        server.probe(request)
    return samples


def _enough(server: Server, client: Client, shape: Shape, seconds: float) -> int:
    """Requests that fill about `seconds`; finding out warms the server up."""
    if shape.rate_per_s:
        client.run(server, shape, LEAST_REQUESTS)
        wanted = shape.rate_per_s * seconds
    else:
        probing = WARM_REQUESTS if shape.in_flight > 1 else LEAST_REQUESTS
        if shape.values > payload.VALUES_1_KB:
            probing = LEAST_REQUESTS
        wanted = client.run(server, shape, probing).per_s * seconds
    # A multiple of what is in flight, so that every connection gets the same number.
    return max(LEAST_REQUESTS, round(wanted / shape.in_flight) * shape.in_flight)
