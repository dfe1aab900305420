"""A model server from PyPI in an environment of its own, installed once and started for a benchmark."""

from __future__ import annotations

import json
import socket
import subprocess
import time
import venv
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc

from benchmarks.dataplane import payload
from benchmarks.dataplane.processes import descendants
from benchmarks.dataplane.servers import Server, environment
from partywall.wire.inference import SERVICE_NAME, message

SERVERS = Path(__file__).resolve().parent
ROOT = SERVERS.parents[1]
CACHE = ROOT / ".bench" / "peers"
START_S, STOP_S = 120.0, 20.0


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
