"""`benchmarks/run.py --full`: the whole matrix, into docs/results/dataplane.{md,json,svg}."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from benchmarks.dataplane import results
from benchmarks.dataplane.bench import BUSY, IDLE, MANY
from benchmarks.dataplane.cores import together
from benchmarks.dataplane.load import Client, Shape, choose_client
from benchmarks.dataplane.processes import pss_mib
from benchmarks.dataplane.rounds import Sample, Spread, interleave
from benchmarks.dataplane.servers import Server, echo_server, partywall_server
from router.settings import Front

VALUES_150_KB, VALUES_2_MB = 38_400, 524_288
OPEN_LOOP_SHARE = 0.6
FIXED_PER_S = 2500.0
"""Stays the same whatever the capacity is: what becomes faster is seen."""
CLOSED = {
    "1 KB, 1 in flight": IDLE,
    "1 KB, 16 in flight": Shape(1, 16),
    "1 KB, 64 in flight": BUSY,
    "1 KB, 256 in flight": Shape(1, 256),
    "1 KB, 64 connections": MANY,
    "150 KB, 1 in flight": Shape(1, 1, VALUES_150_KB),
    "150 KB, 16 in flight": Shape(1, 16, VALUES_150_KB),
    "2 MB, 1 in flight": Shape(1, 1, VALUES_2_MB),
    "2 MB, 16 in flight": Shape(1, 16, VALUES_2_MB),
}
FEATURES = {
    "no throttle": ("--no-throttle",),
    "no admission": ("--no-admission",),
    "no metrics": ("--no-metrics",),
    "no coalescing": ("--no-coalescing",),
    "no server of its own: grpc.aio": ("--front", "aio"),
}
SECONDS = 1.5
OPEN_LOOP_SECONDS = 10.0
"""The first requests of 64 connections that are all new wait for each other: of a short run they would be the p99."""
Note = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Cell:
    """One shape on all servers of a table: samples by round, then by server."""

    label: str
    shape: Shape
    rounds: Sequence[Sequence[Sample]]
    cores_together: float
    """`cores.together()`, just before."""


@dataclass(frozen=True, slots=True)
class Full:
    """Everything one run measured."""

    client: str
    closed: Sequence[Cell]
    open_loops: Sequence[Cell]
    features: Cell
    memory_mib: dict[str, float]


def run(console: Console, rounds: int) -> None:
    """Measures, prints and writes the files.

    Raises:
        RuntimeError: A server did not start.
        AssertionError: Requests failed or replies were wrong.
    """
    full = measure(rounds, console.print)
    for table in results.tables(full):
        console.print(table)
    for path in results.write(full):
        console.print(f"written: {path}")


def measure(rounds: int, note: Note) -> Full:
    """About six minutes for three rounds."""
    with tempfile.TemporaryDirectory(prefix="partywall-bench-") as name:
        folder = Path(name)
        client = choose_client(folder)
        with ExitStack() as servers:
            echo = servers.enter_context(echo_server(folder))
            # What the router's own server is worth to a bare call.
            own = servers.enter_context(echo_server(folder, "echo on the router's server", front=Front.CORE))
            partywall = servers.enter_context(partywall_server(folder))
            pair = (echo, partywall)
            closed = [
                _cell(
                    label,
                    (echo, own, partywall) if shape in (IDLE, BUSY, MANY) else pair,
                    client,
                    shape,
                    rounds,
                    note,
                )
                for label, shape in CLOSED.items()
            ]
            open_loops = [
                _cell(label, pair, client, shape, rounds, note, OPEN_LOOP_SECONDS)
                for label, shape in _open_shapes(closed).items()
            ]
            # A shared machine has states that last minutes: what bars are about is looked at again later in the run.
            closed = [
                _joined(cell, _cell(cell.label, (echo, own, partywall), client, cell.shape, rounds, note))
                if cell.shape in (IDLE, BUSY, MANY)
                else cell
                for cell in closed
            ]
            memory = {role: pss_mib(pids) for server in pair for role, pids in server.groups.items()}
        features = _features(folder, client, rounds, note)
        return Full(client.name, closed, open_loops, features, memory)


def _joined(first: Cell, second: Cell) -> Cell:
    """Both times' rounds as one cell."""
    free = min(first.cores_together, second.cores_together)
    return replace(first, rounds=[*first.rounds, *second.rounds], cores_together=free)


def _open_shapes(closed: Sequence[Cell]) -> dict[str, Shape]:
    """By label: a share of what Partywall does at most, and a fixed rate."""
    many = next(cell for cell in closed if cell.shape == MANY)
    capacity = Spread.of(samples[-1].outcome.per_s for samples in many.rounds).median
    share = round(OPEN_LOOP_SHARE * capacity)
    rates = {f"open loop, {share}/s ({OPEN_LOOP_SHARE:.0%} of capacity)": share}
    rates |= {f"open loop, {FIXED_PER_S:.0f}/s": FIXED_PER_S}
    return {label: replace(MANY, streams=64, rate_per_s=rate) for label, rate in rates.items()}


def _features(folder: Path, client: Client, rounds: int, note: Note) -> Cell:
    with ExitStack() as stack:
        servers = [stack.enter_context(partywall_server(folder, (), "all on"))]
        servers += [stack.enter_context(partywall_server(folder, off, name)) for name, off in FEATURES.items()]
        return _cell("features, 1 KB, 64 in flight", servers, client, BUSY, rounds, note)


def _cell(
    label: str,
    servers: Sequence[Server],
    client: Client,
    shape: Shape,
    rounds: int,
    note: Note,
    seconds: float = SECONDS,
) -> Cell:
    note(f"{label}: {rounds} rounds")
    free = together()
    taken = interleave(servers, client, shape, rounds=rounds, seconds=seconds, note=lambda text: note(f"  {text}"))
    return Cell(label, shape, taken, free)
