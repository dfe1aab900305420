"""A share that is cut anew live: whether one core becomes two under load, and that no request fails by it.

    python benchmarks/shares.py [--seconds 90] [--write docs/results]

Two nodes of two cores (on the cores of this machine; the second one is idle, so that the next tenant has somewhere to
go). A model of one request a batch gets one core, as every newcomer; its profile says that two make it faster. Then it
is offered `LOAD` of what one core does at most, in Poisson arrivals, with an objective of `OBJECTIVE` times a single
request sent as the deadline. What came before the change is compared with what came after it. The last line is one
JSON object. Load, router and both agents stand on the same cores.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.dataplane.processes import busy_s, machine
from benchmarks.dataplane.servers import CLI, environment, run_cli, started
from benchmarks.live.site import ARCHITECTURES, Perceptron, Site, push
from loadgen.arrivals import Poisson, rng_for
from loadgen.results import Fate, Requests
from partywall.errors import Reason

MODEL = Perceptron("acme", "grower", 1024, 9, 64)
LOAD, OBJECTIVE = 0.6, 6.0
"""So much that one core is too few, and so little that two are enough where they are 1.5 times as fast."""
PROFILE = ("--shares", "50,100", "--batch", str(MODEL.rows), "--anyway", "-o", "json")
STEP_S = 60.0


@contextmanager
def two_nodes(folder: Path) -> Iterator[Site]:
    """An instance, its own node and `spare`; one tenant, the model with a loose objective."""
    data = folder / "data"
    run_cli(data, "init")
    listen = [f"--{port}=127.0.0.1:0" for port in ("listen", "admin-listen", "link-listen", "metrics-listen")]
    switches = ("--max-replicas", "1", "--log-level", "warning", "--modules", str(ARCHITECTURES))
    with started([*CLI, "up", "--data-dir", str(data), *listen, *switches], folder / "up.log") as ready:
        bundle = json.loads(run_cli(data, "fleet", "token", "spare", "-o", "json"))["bundle"]
        with _agent(folder, str(ready["link_address"]), bundle):
            _until(lambda: sum(node["state"] == "online" for node in _fleet(data)["nodes"]) == 2)
            run_cli(data, "tenants", "create", MODEL.tenant)
            key = str(json.loads(run_cli(data, "keys", "issue", MODEL.tenant, "-o", "json"))["key"])
            push(data, folder, MODEL, key)
            yield Site(str(ready["address"]), {MODEL.tenant: key}, data)


@contextmanager
def _agent(folder: Path, router: str, bundle: str) -> Iterator[None]:
    home = folder / "spare"
    command = [*CLI, "agent", "--data-dir", str(home), "--node", "spare", "--router", router]
    with (folder / "spare.log").open("w") as log:
        process = subprocess.Popen(
            [*command, "--modules", str(ARCHITECTURES)], stderr=log, env=environment(PARTYWALL_AGENT_JOIN=bundle)
        )
    try:
        yield
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STEP_S)
        process.kill()
        process.wait()


def _fleet(data: Path) -> Any:
    return json.loads(run_cli(data, "fleet", "show", "-o", "json"))


def _until(condition: Any) -> None:
    end_s = time.monotonic() + STEP_S
    while not condition():
        if time.monotonic() > end_s:
            raise RuntimeError(f"not within {STEP_S:.0f} s")
        time.sleep(0.5)


def cores(data: Path) -> int:
    """How many the model stands on; of several replicas, in the middle of a change, the most."""
    replicas = [replica for replica in _fleet(data)["replicas"] if replica["model"] == MODEL.name]
    return max((len(replica["partition"]["cores"]) for replica in replicas), default=0)


async def measure(place: Site, folder: Path, seconds: float, seed: int) -> dict[str, Any]:
    """Profile, load, and what became of it."""
    key = place.keys[MODEL.tenant]
    await place.closed(MODEL, 2.0)
    one_s = (await place.closed(MODEL, 2.0)).p50_ms / 1e3
    tight = replace(MODEL, slo_ms=round(OBJECTIVE * one_s * 1e3))
    push(place.data, folder, tight, key, "--promote")
    profile = json.loads(run_cli(place.data, "profile", MODEL.name, *PROFILE, key=key))["profiles"][0]
    alone = {p["share_percent"]: p["latency_ms"] for p in profile["solo"] if p["rows"] == MODEL.rows}
    before = cores(place.data)
    arrivals = Poisson(LOAD / one_s).times_s(rng_for(seed, MODEL.name), seconds)
    busy, began_s = busy_s(), time.monotonic()
    grown = asyncio.create_task(_grown(place.data, before, began_s, seconds))
    (table,) = await place.open([(tight, arrivals)], {MODEL.name: tight.slo_ms / 1e3})
    cores_busy = (busy_s() - busy) / seconds
    at_s = await grown
    decided = [
        one
        for kind in ("manoeuvre", "reshare", "scale")
        for one in json.loads(run_cli(place.data, "decisions", "list", "--kind", kind, "-o", "json", key=key))
    ]
    return {
        "alone_ms": alone,
        "objective_ms": tight.slo_ms,
        "rate_per_s": round(LOAD / one_s, 1),
        "machine_busy_cores": round(cores_busy, 2),
        "cores": [before, cores(place.data)],
        "grown_after_s": at_s,
        "before": _part(table, tight, 0.0, at_s if at_s is not None else seconds),
        "after": _part(table, tight, at_s, seconds) if at_s is not None else None,
        "lost": _lost(table),
        "decisions": [one["summary"] for one in decided],
    }


async def _grown(data: Path, before: int, began_s: float, seconds: float) -> float | None:
    """Seconds until more cores were seen; None: not within `seconds`."""
    while time.monotonic() - began_s < seconds:
        await asyncio.sleep(2.0)
        if await asyncio.to_thread(cores, data) > before:
            return round(time.monotonic() - began_s, 1)
    return None


def _part(table: Requests, model: Perceptron, from_s: float, until_s: float) -> dict[str, float]:
    inside = (table.intended_s >= from_s) & (table.intended_s < until_s)
    served = inside & (table.fate == Fate.SERVED)
    in_time = served & (table.latency_s <= model.slo_ms / 1e3)
    p50, p95 = np.quantile(table.latency_s[served] * 1e3, [0.5, 0.95]) if served.any() else (np.nan, np.nan)
    return {
        "requests": int(inside.sum()),
        "in_time": round(float(in_time.sum() / max(1, inside.sum())), 4),
        "p50_ms": round(float(p50), 1),
        "p95_ms": round(float(p95), 1),
    }


def _lost(table: Requests) -> int:
    """Requests that ended by anything but an answer, a refusal or their deadline."""
    late = {at for at, reason in enumerate(table.reasons) if reason == Reason.DEADLINE_EXCEEDED}
    return int(((table.fate == Fate.FAILED) & ~np.isin(table.reason, list(late))).sum())


def markdown(result: dict[str, Any]) -> str:
    """What happened, as a table."""
    rows = [("before", result["before"]), *([("after", result["after"])] if result["after"] else [])]
    lines = [
        "# A share cut anew",
        "",
        "Made by `python benchmarks/shares.py`; its head says what is played.",
        "",
        (
            f"Alone, ms by percent of the node: {result['alone_ms']}. Objective {result['objective_ms']:.0f} ms, "
            f"{result['rate_per_s']} requests/s. Cores {result['cores'][0]} to {result['cores'][1]}, seen after "
            f"{result['grown_after_s']} s. Requests that failed by anything but their deadline: {result['lost']}."
        ),
        "",
        "| | requests | in time | p50, ms | p95, ms |",
        "|---|---|---|---|---|",
        *(f"| {n} | {r['requests']} | {r['in_time']:.3f} | {r['p50_ms']} | {r['p95_ms']} |" for n, r in rows),
        "",
        *(f"- {summary}" for summary in result["decisions"]),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=90.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--write", type=Path, help="folder for shares.{json,md}")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, two_nodes(Path(name)) as place:
        result = asyncio.run(measure(place, Path(name), options.seconds, options.seed))
    if options.write:
        here = machine()
        raw = {**result, "cores_of_machine": here.cores, "cpu": here.cpu, "seed": options.seed}
        (options.write / "shares.json").write_text(json.dumps(raw, indent=1) + "\n")
        (options.write / "shares.md").write_text(markdown(result))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
