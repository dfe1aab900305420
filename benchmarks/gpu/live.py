"""A running instance with two tenants, and the load on it."""

from __future__ import annotations

import json
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

import partywall
from benchmarks.dataplane.servers import CLI, run_cli, started
from partywall.client.retry import RetryPolicy
from partywall.errors import PartywallError

ARCHITECTURES = Path(__file__).resolve().parents[2] / "examples" / "architectures.py"


INPUTS, HIDDEN, DEPTH, OUTPUTS, ROWS = 64, 2048, 4, 8, 32


@dataclass(frozen=True, slots=True)
class Live:
    """A running instance with two tenants."""

    data: Path
    address: str
    keys: dict[str, str]
    seconds: float

    def json(self, *arguments: str) -> Any:
        return json.loads(run_cli(self.data, *arguments, "-o", "json"))

    def shares(self) -> dict[str, int]:
        return {row["residents"][0].split("/")[0]: row["share_percent"] for row in self.json("partitions", "list")}

    def pid(self, tenant: str) -> int:
        replicas = self.json("fleet", "show")["replicas"]
        return next(int(r["pid"]) for r in replicas if r["tenant"] == tenant and r["state"] == "ready")

    def resize(self, tenant: str, share: int) -> None:
        run_cli(self.data, "partitions", "resize", f"{tenant}/mlp", "--share", str(share), "--wait")


@dataclass(slots=True)
class Seen:
    """What a load saw."""

    latencies_ms: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @property
    def p99_ms(self) -> float:
        return statistics.quantiles(self.latencies_ms, n=100)[98] if len(self.latencies_ms) > 1 else float("nan")


@contextmanager
def load(live: Live, tenant: str) -> Iterator[Seen]:
    """One caller without a pause and without retries."""
    seen, stop = Seen(), threading.Event()
    inputs = {"x": np.ones((ROWS, INPUTS), np.float32)}

    def ask() -> None:
        once = RetryPolicy(max_tries=1)
        with partywall.Client(live.address, api_key=live.keys[tenant], retry=once) as client:
            while not stop.is_set():
                begun = time.perf_counter()
                try:
                    client.infer("mlp", inputs, deadline_s=20.0)
                    seen.latencies_ms.append((time.perf_counter() - begun) * 1e3)
                except PartywallError as error:
                    seen.failures.append(f"{error.reason.value}: {error.message}")

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join(60)


@contextmanager
def instance(folder: Path, seconds: float, simulate: str) -> Iterator[Live]:
    """`partywall up` with two tenants' models at 25 and 75 %."""
    data = folder / "data"
    run_cli(data, "init")
    ports = [f"--{port}=127.0.0.1:0" for port in ("listen", "admin-listen", "link-listen", "metrics-listen")]
    command = [*CLI, "up", "--data-dir", str(data), *ports, "--log-level", "warning", "--modules", str(ARCHITECTURES)]
    command += ["--simulate-devices", simulate] if simulate else []
    with started(command, folder / "up.log") as ready:
        live = Live(data, str(ready["address"]), {}, seconds)
        write_weights(folder / "mlp")
        shape = {"architecture": "mlp", "inputs": INPUTS, "hidden": HIDDEN, "outputs": OUTPUTS, "depth": DEPTH}
        options = [part for key, value in shape.items() for part in ("--option", f"{key}={value}")]
        for tenant, share in (("one", 25), ("two", 75)):
            run_cli(data, "tenants", "create", tenant)
            live.keys[tenant] = str(json.loads(run_cli(data, "keys", "issue", tenant, "-o", "json"))["key"])
            limits = ("--share", str(share), "--slo-ms", "1000", "--wait")
            push = ("models", "push", "mlp", str(folder / "mlp"), "--engine", "module", *options, *limits)
            run_cli(data, *push, key=live.keys[tenant])
        yield live


def write_weights(folder: Path) -> None:
    folder.mkdir()
    rng = np.random.default_rng(0)
    weights: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]] = {}
    inputs = INPUTS
    for at, outputs in enumerate([HIDDEN] * DEPTH + [OUTPUTS]):
        weights[f"{2 * at}.weight"] = (rng.standard_normal((outputs, inputs)) / inputs**0.5).astype(np.float32)
        weights[f"{2 * at}.bias"] = np.zeros(outputs, np.float32)
        inputs = outputs
    save_file(weights, folder / "model.safetensors")
