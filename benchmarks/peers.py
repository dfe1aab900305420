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
import socket
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
from rich.console import Console
from rich.table import Table

from benchmarks.dataplane import payload
from benchmarks.dataplane.bench import BUSY, IDLE, MANY
from benchmarks.dataplane.load import choose_client
from benchmarks.dataplane.processes import descendants, machine, pss_mib
from benchmarks.dataplane.report import machine_line
from benchmarks.dataplane.rounds import Sample, Spread, interleave
from benchmarks.dataplane.servers import Server, echo_server, environment, partywall_server
from partywall.wire.inference import SERVICE_NAME, message

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / ".bench" / "peers"
SERVERS = ROOT / "benchmarks" / "peer_servers"
RESULTS = ROOT / "docs" / "results"
START_S, STOP_S = 120.0, 20.0
SHAPES = {"1 connection, 64 streams": BUSY, "64 connections": MANY, "1 in flight": IDLE}
HEADERS = ("load", "server", "CPU us/request", "x echo", "requests/s", "p50 ms", "p99 ms", "MiB")


@dataclass(frozen=True, slots=True)
class Peer:
    """A model server from PyPI. `command` makes its command line: (python, folder, http port, grpc port)."""

    name: str
    command: Callable[[Path, Path, int, int], list[str]]

    @property
    def pins(self) -> Path:
        return SERVERS / f"{self.name}.txt"

    @property
    def version(self) -> str:
        return next(
            line.partition("==")[2] for line in self.pins.read_text().split() if line.startswith(f"{self.name}=")
        )


def mlserver_command(python: Path, folder: Path, http_port: int, grpc_port: int) -> list[str]:
    """MLServer without parallel workers, which would only add a hop."""
    settings = {
        "host": "127.0.0.1",
        "http_port": http_port,
        "grpc_port": grpc_port,
        "metrics_endpoint": None,
        "parallel_workers": 0,
    }
    model = {"name": payload.MODEL, "implementation": "mlserver_identity.Identity"}
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "model-settings.json").write_text(json.dumps(model))
    (folder / "mlserver_identity.py").write_text((SERVERS / "mlserver_identity.py").read_text())
    return [str(python.parent / "mlserver"), "start", str(folder)]


def kserve_command(python: Path, folder: Path, http_port: int, grpc_port: int) -> list[str]:
    """KServe with one worker."""
    return [str(python), str(SERVERS / "kserve_identity.py"), payload.MODEL, str(http_port), str(grpc_port)]


PEERS = (Peer("mlserver", mlserver_command), Peer("kserve", kserve_command))


def installed(peer: Peer, note: Callable[[str], None]) -> Path:
    """The interpreter of the peer's environment, which is made where it is not there yet.

    Raises:
        subprocess.CalledProcessError: pip failed.
    """
    folder = CACHE / f"{peer.name}-{peer.version}"
    python = folder / "bin" / "python"
    done = folder / ".complete"
    if not done.exists():
        note(f"installing {peer.name} {peer.version} into {folder.relative_to(ROOT)}")
        venv.create(folder, with_pip=True, clear=True)
        pip = [str(python), "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
        subprocess.run([*pip, "--constraint", str(peer.pins), f"{peer.name}=={peer.version}"], check=True)
        done.touch()
    return python


@contextmanager
def running(peer: Peer, python: Path, folder: Path) -> Iterator[Server]:
    """The peer, ready to serve.

    Raises:
        RuntimeError: It ended, or was not ready in time; the message has the end of its log.
    """
    home = folder / peer.name
    home.mkdir()
    http_port, grpc_port = free_ports(2)
    log = folder / f"{peer.name}.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            peer.command(python, home, http_port, grpc_port),
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=home,
            env=environment(PYTHONPATH=""),
        )
    address = f"127.0.0.1:{grpc_port}"
    try:
        _await_ready(process, address, log)
        pids = (process.pid, *descendants(process.pid))
        yield Server(f"{peer.name} {peer.version}", address, {peer.name: pids}, check=check_values)
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago: the peers cannot be told to take any."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for made in sockets:
            made.bind(("127.0.0.1", 0))
        return [made.getsockname()[1] for made in sockets]


def _await_ready(process: subprocess.Popen[bytes], address: str, log: Path) -> None:
    ask = message("ModelReadyRequest")(name=payload.MODEL).SerializeToString()
    limit_s = time.monotonic() + START_S
    with grpc.insecure_channel(address) as channel:
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"/{SERVICE_NAME}/ModelReady")
        while time.monotonic() < limit_s and process.poll() is None:
            try:
                if message("ModelReadyResponse").FromString(call(ask, timeout=2.0)).ready:
                    return
            except grpc.RpcError:
                time.sleep(0.2)
    raise RuntimeError(f"{process.args!r} is not ready\n{log.read_text()[-4000:]}")


def check_values(reply: bytes, request: bytes) -> None:
    """Whether the values came back; the peers may answer them as typed contents.

    Raises:
        AssertionError: Other values.
    """
    import numpy as np

    sent, got = message("ModelInferRequest").FromString(request), message("ModelInferResponse").FromString(reply)
    values = np.frombuffer(sent.raw_input_contents[0], "<f4")
    if got.raw_output_contents:
        back = np.frombuffer(got.raw_output_contents[0], "<f4")
    else:
        back = np.array(got.outputs[0].contents.fp32_contents, "<f4")
    assert np.array_equal(values, back), "the reply holds other values"


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
