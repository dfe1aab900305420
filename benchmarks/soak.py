"""A soak: load with cancellations, hurried callers, slow readers and connection resets; then the books are compared.

Every request has a number and a payload; the model on the worker's side counts executions by number. So it is known of
each request whether it was executed, how often, and what its caller was told. Memory of each process is watched.

Run: python benchmarks/soak.py [--minutes 10] [--load 0.8] [--processes 1] [--seed 1]
Writes docs/results/soak.json and soak.md.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import uvloop
from safetensors.numpy import save_file

from benchmarks.dataplane.processes import PROC, descendants, machine
from benchmarks.dataplane.servers import CLI, run_cli, started
from benchmarks.soaking.client import MODEL, Load, Mix
from benchmarks.soaking.page import page
from benchmarks.soaking.relay import Relay
from benchmarks.soaking.verdict import Growth, growth, settle

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"
LEDGER = Path(__file__).resolve().parent / "soaking" / "ledger.py"
CONNECTIONS, RELAYED = 16, 4
SLOW_READERS = 3
PROBE_S, PROBE_IN_FLIGHT = 3.0, 64
STRETCH_S = 60.0
"""How long one measured capacity counts: the speed of a shared machine drifts by more than the load leaves free."""
RESET_MEAN_S = 3.0
SAMPLE_EVERY_S = 0.5
SETTLE_S = 3.0


class Memory:
    """Own (anonymous) memory of each process over time, MiB."""

    def __init__(self, roles: dict[str, int]) -> None:
        self._roles = roles
        self._start_s = time.monotonic()
        self.at_s: list[float] = []
        self.mib: dict[str, list[float]] = {role: [] for role in roles}

    async def watch(self) -> None:
        while True:
            self.at_s.append(time.monotonic() - self._start_s)
            for role, pid in self._roles.items():
                self.mib[role].append(own_mib(pid))
            await asyncio.sleep(SAMPLE_EVERY_S)

    def growth(self) -> list[Growth]:
        return [growth(role, self.at_s, sizes[: len(self.at_s)]) for role, sizes in self.mib.items()]


def own_mib(pid: int) -> float:
    """Anonymous resident memory of a process in MiB."""
    for line in (PROC / str(pid) / "status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) / 1024
    return 0.0


def roles_of(ready: dict[str, Any]) -> dict[str, int]:
    """Processes of an instance by what they do."""
    roles = {"router": int(ready["router_pid"]), "agent": int(ready["agent_pid"])}
    roles |= {f"router process {n}": pid for n, pid in enumerate(descendants(ready["router_pid"]))}
    below = descendants(ready["agent_pid"])
    # The zygote comes first: workers are its children.
    return roles | {("zygote" if n == 0 else f"worker {n}"): pid for n, pid in enumerate(below)}


async def soak(ready: dict[str, Any], key: str, options: argparse.Namespace) -> dict[str, Any]:
    """Runs the load and compares the books."""
    rng = random.Random(options.seed)
    address = ready["address"]
    own = (("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1))
    quick = (("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 200))
    async with AsyncExitStack() as stack:
        relay = await stack.enter_async_context(Relay(address, RESET_MEAN_S, rng).running())
        places = [address] * (CONNECTIONS - RELAYED) + [relay.address] * RELAYED
        channels = [
            await stack.enter_async_context(grpc.aio.insecure_channel(place, options=(*own, *quick)))
            for place in places
        ]
        load, over = Load(channels, key, rng, Mix()), asyncio.Event()
        readers = [asyncio.create_task(load.slow_reader(over)) for _ in range(SLOW_READERS)]
        await load.closed(2.0, PROBE_IN_FLIGHT)
        memory = Memory(roles_of(ready))
        watching = asyncio.create_task(memory.watch())
        stretches = await _stretches(load, options.minutes * 60.0, options.load)
        over.set()
        await asyncio.gather(*readers)
        await asyncio.sleep(SETTLE_S)
        watching.cancel()
        executed = await load.executions()
        left = open_requests(ready["metrics_address"])
    account = settle(load.seen[: load.numbers], executed)
    latencies = np.asarray(load.latencies_ms)
    return {
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": asdict(machine()),
        "minutes": options.minutes,
        "load": options.load,
        "router_processes": options.processes,
        "seed": options.seed,
        "capacity_per_s": [round(one.capacity_per_s, 1) for one in stretches],
        "sent_per_s": [round(one.sent_per_s, 1) for one in stretches],
        "account": asdict(account),
        "ok": account.ok and left == 0,
        "left_open_in_router": left,
        "connection_resets": relay.resets,
        "slow_reader_answers": load.slow_answers,
        "errors": dict(load.errors.most_common()),
        "p50_ms": round(float(np.percentile(latencies, 50)), 2),
        "p99_ms": round(float(np.percentile(latencies, 99)), 2),
        "memory": [asdict(one) | {"flat": one.flat} for one in memory.growth()],
        "memory_series": {"at_s": [round(t, 1) for t in memory.at_s]}
        | {role: [round(size, 2) for size in sizes] for role, sizes in memory.mib.items()},
    }


@dataclass(frozen=True, slots=True)
class Stretch:
    """A part of the soak: what the client got at most before it, and what it sent in it; requests per second."""

    capacity_per_s: float
    sent_per_s: float


async def _stretches(load: Load, seconds: float, share: float) -> list[Stretch]:
    """Paced load for so long, each stretch at `share` of the capacity measured just before it."""
    done: list[Stretch] = []
    end_s = time.monotonic() + seconds
    while (left_s := end_s - time.monotonic()) > PROBE_S:
        # With all that goes wrong in it: what is left then is what the share must be taken of.
        capacity = await load.closed(PROBE_S, PROBE_IN_FLIGHT)
        before, started_s = load.numbers, time.monotonic()
        await load.paced(min(STRETCH_S, left_s) - PROBE_S, capacity * share)
        sent = (load.numbers - before) / (time.monotonic() - started_s)
        done.append(Stretch(capacity, sent))
        print(f"capacity {capacity:.0f}/s, sent {sent:.0f}/s, {left_s:.0f} s left", file=sys.stderr)
    return done


def open_requests(metrics_address: str) -> int:
    """Requests that the router still counts as inside, when none should be."""
    with urllib.request.urlopen(f"http://{metrics_address}/metrics", timeout=10) as response:
        lines = response.read().decode().splitlines()
    inside = ("partywall_in_flight_requests", "partywall_replica_in_flight_requests")
    return round(sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(inside)))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--load", type=float, default=0.8, help="share of the capacity that is measured first")
    parser.add_argument("--processes", type=int, default=1, help="router processes")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="partywall-soak-") as name:
        folder = Path(name)
        data = folder / "data"
        run_cli(data, "init")
        listen = [f"--{port}=127.0.0.1:0" for port in ("listen", "admin-listen", "link-listen", "metrics-listen")]
        command = [*CLI, "up", "--data-dir", str(data), *listen, "--log-level", "error", "--modules", str(LEDGER)]
        command += ["--router-processes", str(options.processes)]
        with started(command, folder / "up.log") as ready:
            key = _ledger(data, folder)
            found = uvloop.run(soak(ready, key, options))
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "soak.json").write_text(json.dumps(found, indent=1) + "\n")
    (options.out / "soak.md").write_text(page(found))
    print(page(found))
    return 0 if found["ok"] and all(one["flat"] for one in found["memory"]) else 1


def _ledger(data: Path, folder: Path) -> str:
    """A tenant with the ledger; answers its key."""
    source = folder / "ledger"
    source.mkdir()
    save_file({"unused": np.zeros(1, np.float32)}, source / "model.safetensors")
    run_cli(data, "tenants", "create", "soak")
    run_cli(data, "quota", "set", "soak", "--requests-per-s=100000", "--burst=20000")
    key = str(json.loads(run_cli(data, "keys", "issue", "soak", "-o", "json"))["key"])
    engine = ("--engine", "module", "--option", "architecture=ledger", "--slo-ms", "1000")
    run_cli(data, "models", "push", MODEL, str(source), *engine, "--wait", key=key)
    return key


if __name__ == "__main__":
    sys.exit(main())
