"""`make bench-peers`: MLServer and KServe beside Partywall, the same request and the same load, interleaved.

Each peer is installed, once, into an environment of its own under `.bench/` (versions are pinned in
benchmarks/peer_servers/*.txt) and serves an identity model over the same protocol. They route nothing, know no
tenants and admit everything. Writes docs/results/peers.md and peers.json; the last line of standard output is one
JSON object of CPU us per request.

Run: python benchmarks/peers.py [--rounds 5] [--seconds 2]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.dataplane.bench import BUSY, IDLE, MANY
from benchmarks.dataplane.load import choose_client
from benchmarks.dataplane.processes import machine, pss_mib
from benchmarks.dataplane.report import machine_line
from benchmarks.dataplane.rounds import Sample, Spread, interleave
from benchmarks.dataplane.servers import echo_server, partywall_server
from benchmarks.peer_servers.peer import PEERS, installed, running

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"
SHAPES = {"1 connection, 64 streams": BUSY, "64 connections": MANY, "1 in flight": IDLE}
HEADERS = ("load", "server", "CPU us/request", "x echo", "requests/s", "p50 ms", "p99 ms", "MiB")


def measure(rounds: int, seconds: float, note: Callable[[str], None]) -> dict[str, Any]:
    """Samples of all servers under each shape, as plain data with `memory_mib` after them."""
    pythons = {peer.name: installed(peer, note) for peer in PEERS}
    with tempfile.TemporaryDirectory(prefix="partywall-peers-") as name, ExitStack() as stack:
        folder = Path(name)
        client = choose_client(folder)
        servers = [stack.enter_context(echo_server(folder)), stack.enter_context(partywall_server(folder))]
        servers += [stack.enter_context(running(peer, pythons[peer.name], folder)) for peer in PEERS]
        taken = {}
        for label, shape in SHAPES.items():
            note(f"{label}: {rounds} rounds with {client.name}")
            length = seconds if shape.in_flight > 1 else seconds / 2
            taken[label] = interleave(
                servers, client, shape, rounds=rounds, seconds=length, note=lambda text: note(f"  {text}")
            )
        memory = {s.name: pss_mib([pid for pids in s.groups.values() for pid in pids]) for s in servers}
        return {"client": client.name, "shapes": taken, "memory_mib": memory}


def rows(found: Mapping[str, Any]) -> list[list[str]]:
    """One row per shape and server."""
    out = []
    for label, samples in found["shapes"].items():
        for index, first in enumerate(samples[0]):
            mine: list[Sample] = [taken[index] for taken in samples]
            cpu = Spread.of(s.total_us for s in mine)
            times = Spread.of(taken[index].total_us / taken[0].total_us for taken in samples)
            memory = f"{found['memory_mib'][first.server]:.0f}"
            seen = [Spread.of(s.outcome.per_s for s in mine).text()]
            seen += [Spread.of(getattr(s.outcome, p) for s in mine).text(2) for p in ("p50_ms", "p99_ms")]
            out.append([label if index == 0 else "", first.server, cpu.text(), times.text(2), *seen, memory])
    return out


def write(found: Mapping[str, Any], folder: Path = RESULTS) -> None:
    """peers.md and peers.json."""
    folder.mkdir(parents=True, exist_ok=True)
    count = len(found["shapes"]["1 in flight"])
    lines = [
        "# Beside other model servers",
        "",
        f"Made by `make bench-peers` on {datetime.now(UTC):%Y-%m-%d}. Machine: {machine_line()}.",
        f"Load: {found['client']}, 1 KB. Medians over {count} interleaved rounds, ranges in parentheses. Every server",
        "answers an identity model over the same protocol; CPU is that of all its processes. The peers route nothing.",
        "",
        f"| {' | '.join(HEADERS)} |",
        "|" + " --- |" * len(HEADERS),
        *(f"| {' | '.join(row)} |" for row in rows(found)),
    ]
    (folder / "peers.md").write_text("\n".join(lines) + "\n")
    shapes = {
        label: [[asdict(sample) for sample in taken] for taken in samples] for label, samples in found["shapes"].items()
    }
    document = {**found, "shapes": shapes, "machine": asdict(machine())}
    (folder / "peers.json").write_text(json.dumps(document, indent=1) + "\n")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    options = parser.parse_args(arguments)
    console = Console(width=160)
    found = measure(options.rounds, options.seconds, lambda text: print(text, file=sys.stderr, flush=True))
    table = Table(*HEADERS, title="Beside other model servers")
    for row in rows(found):
        table.add_row(*row)
    console.print(table)
    write(found)
    busy = found["shapes"]["1 connection, 64 streams"]
    print(
        json.dumps({s.server: round(Spread.of(t[i].total_us for t in busy).median, 1) for i, s in enumerate(busy[0])})
    )


if __name__ == "__main__":
    main()
