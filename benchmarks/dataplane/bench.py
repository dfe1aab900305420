"""The short comparison behind `make bench`: the bare echo and Partywall, busy and idle."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.dataplane.load import Shape, choose_client
from benchmarks.dataplane.rounds import Sample, Spread, interleave
from benchmarks.dataplane.servers import echo_server, partywall_server

BUSY = Shape(connections=1, streams=64)
MANY = Shape(connections=64, streams=1)
IDLE = Shape(connections=1, streams=1)


@dataclass(frozen=True, slots=True)
class Plan:
    """How long to measure. `seconds` is one busy run of one server."""

    rounds: int = 5
    seconds: float = 2.0
    idle_seconds: float = 0.8


@dataclass(frozen=True, slots=True)
class Comparison:
    """Samples by round, each (echo, partywall), for the three shapes."""

    client: str
    busy: Sequence[Sequence[Sample]]
    many: Sequence[Sequence[Sample]]
    idle: Sequence[Sequence[Sample]]

    def summary(self) -> dict[str, float]:
        """The figures of one connection with 64 streams: CPU in us per request; `ratio` is (router + agent + worker) /
        echo and `idle_added_ms` the difference of the p50 at one in flight, both within a round, then the median."""
        floors = [echo for echo, _ in self.busy]
        ours = [sample for _, sample in self.busy]
        return {
            "echo_us": round(Spread.of(s.total_us for s in floors).median, 1),
            **{
                f"{role}_us": round(Spread.of(s.cpu_us[role] for s in ours).median, 1)
                for role in ("router", "agent", "worker")
            },
            "ratio": round(ratio(self.busy).median, 3),
            "idle_added_ms": round(added_ms(self.idle).median, 3),
        }


def ratio(rounds: Sequence[Sequence[Sample]]) -> Spread:
    """CPU of the second server over that of the first, round by round."""
    return Spread.of(ours.total_us / floor.total_us for floor, ours in rounds)


def added_ms(rounds: Sequence[Sequence[Sample]]) -> Spread:
    """p50 of the second server minus that of the first, round by round."""
    return Spread.of(ours.outcome.p50_ms - floor.outcome.p50_ms for floor, ours in rounds)


def compare(plan: Plan, note: Callable[[str], None]) -> Comparison:
    """Starts both servers and measures them in turns.

    Raises:
        RuntimeError: A server or the client did not start.
        AssertionError: A reply was wrong, or requests failed.
    """
    with tempfile.TemporaryDirectory(prefix="partywall-bench-") as name:
        folder = Path(name)
        client = choose_client(folder)
        with echo_server(folder) as echo, partywall_server(folder) as partywall:
            servers = (echo, partywall)
            measured = {}
            for label, shape, seconds in (
                ("1 connection, 64 streams", BUSY, plan.seconds),
                ("64 connections, 1 stream each", MANY, plan.seconds),
                ("1 in flight", IDLE, plan.idle_seconds),
            ):
                note(f"{label}: {plan.rounds} rounds with {client.name}")
                measured[label] = interleave(
                    servers, client, shape, rounds=plan.rounds, seconds=seconds, note=lambda text: note(f"  {text}")
                )
            busy, many, idle = measured.values()
            return Comparison(client.name, busy, many, idle)
