"""The servers that are measured, each in processes of its own: the bare echo and Partywall."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from benchmarks.dataplane import payload
from benchmarks.dataplane.processes import descendants
from router.settings import Front

BENCHMARKS = Path(__file__).resolve().parents[1]
START_S, STOP_S, CALL_S = 120.0, 40.0, 60.0
RATE, BURST = 100_000, 20_000
"""The tenant's quota: far above what is sent, so that the throttle works on every request and refuses none."""

Groups = Mapping[str, tuple[int, ...]]


def _nothing() -> int | None:
    return None


def _no_check(reply: bytes, request: bytes) -> None:
    assert reply == request, "the reply is not what was sent"


@dataclass(frozen=True, slots=True)
class Server:
    """A running server. `groups` names its processes by role; `answered` counts what it says it has served."""

    name: str
    address: str
    groups: Groups
    metadata: tuple[tuple[str, str], ...] = ()
    answered: Callable[[], int | None] = _nothing
    check: Callable[[bytes, bytes], None] = _no_check
    options: tuple[tuple[str, Any], ...] = field(
        default=(("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))
    )

    def probe(self, request: bytes) -> None:
        """One request by a real client, and a look at its reply.

        Raises:
            grpc.RpcError: The server refused it.
            AssertionError: The reply is wrong.
        """
        with grpc.insecure_channel(self.address, options=self.options) as channel:
            call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(payload.METHOD)
            reply = call(request, metadata=self.metadata, timeout=CALL_S)
        self.check(reply, request)


@contextmanager
def echo_server(folder: Path, name: str = "echo", *, front: Front = Front.AIO) -> Iterator[Server]:
    """The floor, on grpc.aio; or the same on the server that the router's public port has."""
    command = [sys.executable, str(BENCHMARKS / "echo_server.py"), "--front", front.value]
    with started(command, folder / f"{name}.log".replace(" ", "-"), environment()) as ready:
        yield Server(name, ready["address"], {"echo": (ready["pid"],)})


@contextmanager
def partywall_server(folder: Path, options: Sequence[str] = (), name: str = "partywall") -> Iterator[Server]:
    """`partywall up` with one tenant and the identity model; `options` go to `up`."""
    data = folder / name.replace(" ", "-")
    run_cli(data, "init")
    listen = [f"--{port}=127.0.0.1:0" for port in ("listen", "admin-listen", "link-listen", "metrics-listen")]
    command = [*CLI, "up", "--data-dir", str(data), *listen, "--log-level", "warning", *options]
    with started(command, folder / f"{name}.log") as ready:
        key = _tenant_with_model(data, folder)
        agent = int(ready["agent_pid"])
        groups = {"router": (int(ready["router_pid"]),), "agent": (agent,), "worker": descendants(agent)}
        metadata = (("authorization", f"Bearer {key}"),)
        metrics = ready["metrics_address"]
        counted = _nothing if "--no-metrics" in options else lambda: served(metrics)
        yield Server(name, ready["address"], groups, metadata, counted, payload.check_reply)


def _tenant_with_model(data: Path, folder: Path) -> str:
    """A tenant with a generous quota and the identity model, ready; answers its key."""
    tenant = "bench"
    run_cli(data, "tenants", "create", tenant)
    run_cli(data, "quota", "set", tenant, f"--requests-per-s={RATE}", f"--burst={BURST}")
    key = str(json.loads(run_cli(data, "keys", "issue", tenant, "-o", "json"))["key"])
    source = folder / "identity"
    source.mkdir(exist_ok=True)
    (source / "README.txt").write_text("The identity engine keeps no weights.\n")
    push = ("models", "push", payload.MODEL, str(source), "--engine", "identity", "--slo-ms", "1000", "--wait")
    run_cli(data, *push, key=key)
    return key


def served(metrics_address: str) -> int:
    """Requests that the router counts as answered."""
    with urllib.request.urlopen(f"http://{metrics_address}/metrics", timeout=10) as response:
        text = response.read().decode()
    counts = [line for line in text.splitlines() if line.startswith("partywall_requests_total{")]
    return round(sum(float(line.rpartition(" ")[2]) for line in counts if 'outcome="OK"' in line))


CLI = (sys.executable, "-m", "partywall.cli.main")


def environment(**extra: str) -> dict[str, str]:
    """This one without settings that would reach the product."""
    return {k: v for k, v in os.environ.items() if not k.startswith("PARTYWALL_")} | {"NO_COLOR": "1", **extra}


def run_cli(data: Path, *arguments: str, key: str = "") -> str:
    """A CLI command's standard output; a failure shows what it said.

    Raises:
        RuntimeError: It did not end with 0.
    """
    extra = {"PARTYWALL_API_KEY": key} if key else {}
    command = [*CLI, *arguments, "--data-dir", str(data)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=START_S, check=False, env=environment(**extra)
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)} ended with {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout


@contextmanager
def started(command: Sequence[str], log: Path, env: Mapping[str, str] | None = None) -> Iterator[dict[str, Any]]:
    """A process that prints `ready {json}`; it is ended, and waited for, on the way out.

    Raises:
        RuntimeError: It was not ready in time; the message has the end of its log.
    """
    with log.open("w") as errors:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env=dict(env or environment())
        )
    try:
        yield _await_ready(process, log)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _await_ready(process: subprocess.Popen[str], log: Path) -> dict[str, Any]:
    assert process.stdout is not None
    readable, _, _ = select.select([process.stdout], [], [], START_S)
    line = process.stdout.readline() if readable else ""
    if not line.startswith("ready "):
        raise RuntimeError(f"{process.args!r} is not ready: {line!r}\n{log.read_text()[-4000:]}")
    ready: dict[str, Any] = json.loads(line.removeprefix("ready "))
    return ready
