"""A real instance, perceptrons of a chosen weight as its models, and load for them.

Workers have the last core; router, agent and client keep to the others.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from benchmarks.dataplane.servers import CLI, run_cli, started
from loadgen.arrivals import FloatArray
from loadgen.closed import ClosedResult, closed_loop
from loadgen.payloads import Addressee, encode
from loadgen.results import Requests
from loadgen.runner import OpenLoopRun, Stream
from loadgen.targets import Target
from partywall.client.endpoint import open_endpoint

ARCHITECTURES = Path(__file__).resolve().parents[2] / "examples" / "architectures.py"
INPUTS, OUTPUTS = 64, 8
GROUP = "neighbours"
REMEMBERED = 64
"""The newest of these requests are looked at: fewer than one run sends."""


@dataclass(frozen=True, slots=True)
class Perceptron:
    """A tenant's model: `depth` layers of `hidden` units, asked with `rows` rows, at most `batch` requests at once."""

    tenant: str
    name: str
    hidden: int
    depth: int
    rows: int
    batch: int = 1
    slo_ms: float = 1000.0


@dataclass(frozen=True, slots=True)
class Site:
    """A running instance and its tenants' keys."""

    address: str
    keys: Mapping[str, str]
    data: Path

    def payload(self, model: Perceptron, requests: int = 1) -> bytes:
        """One request with the rows of so many; values do not matter."""
        rng = np.random.default_rng(1)
        value = rng.standard_normal((requests * model.rows, INPUTS)).astype(np.float32)
        return encode(Addressee(model.name, "x"), value)

    async def closed(
        self, model: Perceptron, duration_s: float, requests: int = 1, concurrency: int = 1
    ) -> ClosedResult:
        """One model alone."""
        async with Target(open_endpoint(self.address, credential=self.keys[model.tenant])) as target:
            await target.connect()
            load = [self.payload(model, requests)]
            return await closed_loop(target.call, load, concurrency=concurrency, duration_s=duration_s, warmup_s=0.5)

    def inside_s(self, model: Perceptron, count: int) -> float:
        """Mean of what the last `count` requests waited and were worked on in the agent and the worker."""
        return float(np.mean([(t["queue_ms"] + t["service_ms"]) / 1e3 for t in self._traces(model, count)]))

    def service_s(self, model: Perceptron, requests: int) -> FloatArray:
        """What the worker said a batch took, for the last answered requests with the rows of `requests`; shape [n].

        Raises:
            RuntimeError: The router remembers none.
        """
        traces = self._traces(model, REMEMBERED)
        rows = requests * model.rows
        found = [t["service_ms"] / 1e3 for t in traces if t["rows"] == t["batch_rows"] == rows and t["service_ms"]]
        if not found:
            raise RuntimeError(f"no answered request of {rows} rows to {model.name} is remembered")
        return np.array(found)

    def _traces(self, model: Perceptron, count: int) -> list[dict[str, Any]]:
        listing = ("requests", "list", "--model", model.name, "--limit", str(count), "-o", "json")
        found: list[dict[str, Any]] = json.loads(run_cli(self.data, *listing, key=self.keys[model.tenant]))
        return found

    async def open(
        self, offered: Sequence[tuple[Perceptron, FloatArray]], deadline_s: Mapping[str, float]
    ) -> tuple[Requests, ...]:
        """All models at their arrivals; the deadline of a model's requests by its name."""
        targets = [Target(open_endpoint(self.address, credential=self.keys[m.tenant])) for m, _ in offered]
        for target in targets:
            await target.__aenter__()
        try:
            streams = []
            for target, (model, times_s) in zip(targets, offered, strict=True):
                await target.connect()
                limit_s = deadline_s[model.name]
                streams.append(Stream(model.name, target.call, [self.payload(model)], times_s, limit_s * 1e3, limit_s))
            return (await OpenLoopRun(streams).run()).requests
        finally:
            for target in targets:
                await target.__aexit__(None, None, None)


@contextmanager
def site(folder: Path, models: Sequence[Perceptron], options: Sequence[str] = ()) -> Iterator[Site]:
    """`partywall up` with these models ready; tenants share workers (trust policy `shared`, one group)."""
    data = folder / "data"
    run_cli(data, "init")
    listen = [f"--{port}=127.0.0.1:0" for port in ("listen", "admin-listen", "link-listen", "metrics-listen")]
    core = max(os.sched_getaffinity(0))
    command = [*CLI, "up", "--data-dir", str(data), *listen, "--log-level", "warning", "--cores", str(core)]
    with started([*command, "--modules", str(ARCHITECTURES), *options], folder / "up.log") as ready:
        keys: dict[str, str] = {}
        for model in models:
            if model.tenant not in keys:
                run_cli(data, "tenants", "create", model.tenant)
                quota = ("--requests-per-s=100000", "--burst=20000", f"--trust-group={GROUP}", "--trust-policy=shared")
                run_cli(data, "quota", "set", model.tenant, *quota)
                keys[model.tenant] = str(json.loads(run_cli(data, "keys", "issue", model.tenant, "-o", "json"))["key"])
            push(data, folder, model, keys[model.tenant])
        rest = os.sched_getaffinity(0) - {core}
        if rest:
            for pid in (os.getpid(), int(ready["router_pid"]), int(ready["agent_pid"])):
                _keep_to(pid, rest)
        yield Site(str(ready["address"]), keys, data)


def _keep_to(pid: int, cores: Collection[int]) -> None:
    """All threads of a process, off the workers' core; a thread that has just ended is none any more."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(int(thread.name), cores)


def push(data: Path, folder: Path, model: Perceptron, key: str, *options: str) -> None:
    """Pushes the model as its tenant and waits for it; weights are random."""
    source = folder / model.name
    source.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    weights: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]] = {}
    inputs = INPUTS
    for at, outputs in enumerate([model.hidden] * model.depth + [OUTPUTS]):
        weights[f"{2 * at}.weight"] = (rng.standard_normal((outputs, inputs)) / inputs**0.5).astype(np.float32)
        weights[f"{2 * at}.bias"] = np.zeros(outputs, np.float32)
        inputs = outputs
    save_file(weights, source / "model.safetensors")
    shape = {"architecture": "mlp", "inputs": INPUTS, "hidden": model.hidden, "outputs": OUTPUTS, "depth": model.depth}
    made_of = [part for key_, value in shape.items() for part in ("--option", f"{key_}={value}")]
    limits = (f"--slo-ms={model.slo_ms:g}", f"--max-batch={model.batch * model.rows}")
    command = ("models", "push", model.name, str(source), "--engine", "module", "--wait")
    run_cli(data, *command, *made_of, *limits, *options, key=key)
