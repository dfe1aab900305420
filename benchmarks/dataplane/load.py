"""Load on one server: closed or open loop, through h2load (C, light) or a client process on grpc.aio."""

from __future__ import annotations

import json
import math
import re
import shutil
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.dataplane import payload
from benchmarks.dataplane.servers import Server

DEADLINE = "10S"
"""Every call brings one, as a caller with an objective would."""
TIMEOUT_S = 300.0
_DONE = re.compile(r"requests: (\d+) total, (\d+) started, (\d+) done, (\d+) succeeded, (\d+) failed, (\d+) errored")
_FINISHED = re.compile(r"finished in ([0-9.]+)(us|ms|s|m)\b")
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}


@dataclass(frozen=True, slots=True)
class Shape:
    """`connections` x `streams` requests in flight at the most; `rate_per_s` 0 is a closed loop."""

    connections: int = 1
    streams: int = 64
    values: int = payload.VALUES_1_KB
    rate_per_s: float = 0.0

    @property
    def in_flight(self) -> int:
        return self.connections * self.streams


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the client saw. Latencies are of successful requests."""

    completed: int
    failed: int
    seconds: float
    p50_ms: float
    p99_ms: float

    @property
    def per_s(self) -> float:
        return self.completed / self.seconds


class H2Load:
    """h2load of nghttp2. It does not look at grpc-status: callers compare with the server's own count."""

    name = "h2load"

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def run(self, server: Server, shape: Shape, requests: int) -> Outcome:
        """Sends `requests` requests.

        Raises:
            RuntimeError: h2load failed or printed what it should not.
        """
        body, log = self._folder / f"body-{shape.values}", self._folder / "h2load.log"
        body.write_bytes(payload.framed(payload.request_bytes(shape.values)))
        log.unlink(missing_ok=True)
        command = [
            "h2load",
            f"--clients={shape.connections}",
            f"--max-concurrent-streams={shape.streams}",
            f"--requests={requests}",
            f"--data={body}",
            f"--log-file={log}",
            *_headers(server),
        ]
        command += _paced(shape)
        command.append(f"http://{server.address}{payload.METHOD}")
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        counts, finished = _DONE.search(done.stdout), _FINISHED.search(done.stdout)
        if done.returncode or counts is None or finished is None:
            raise RuntimeError(f"h2load ended with {done.returncode}: {done.stdout[-2000:]}{done.stderr}")
        total, succeeded = int(counts[1]), int(counts[4])
        seconds = float(finished[1]) * _SECONDS[finished[2]]
        return Outcome(succeeded, total - succeeded, seconds, *_percentiles(_logged_ms(log)))


class AioClient:
    """Our own client process, for machines without h2load. It costs as much CPU as the server does."""

    name = "grpc.aio"

    def run(self, server: Server, shape: Shape, requests: int) -> Outcome:
        """Sends `requests` requests; a closed loop unless a rate is given.

        Raises:
            RuntimeError: The client process failed.
        """
        order = {"address": server.address, "metadata": server.metadata, "requests": requests, **asdict(shape)}
        command = [sys.executable, "-m", "benchmarks.dataplane.client", json.dumps(order)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        if done.returncode:
            raise RuntimeError(f"the client process ended with {done.returncode}: {done.stderr[-2000:]}")
        seen = json.loads(done.stdout)
        return Outcome(seen["completed"], seen["failed"], seen["seconds"], *_percentiles(seen["latencies_ms"]))


Client = H2Load | AioClient


def choose_client(folder: Path) -> Client:
    """h2load where it is installed (Debian: nghttp2-client)."""
    return H2Load(folder) if shutil.which("h2load") else AioClient()


def _paced(shape: Shape) -> list[str]:
    """h2load paces each connection by itself, from its start on: what is sent is as even as the connections' starts are
    over one period of theirs."""
    if not shape.rate_per_s:
        return []
    starts, period_ms = even_starts(shape.rate_per_s)
    return [
        f"--rps={shape.rate_per_s / shape.connections:.4f}",
        f"--rate={starts}",
        f"--rate-period={period_ms}ms",
    ]


def even_starts(rate_per_s: float) -> tuple[int, int]:
    """(connections, whole milliseconds): how many to start how often, so that all start within one period of theirs.

    The nearest to one per 1/rate, as h2load counts milliseconds: a miss by a tenth leaves a tenth of each period empty,
    or filled twice. Few at once are worth a small miss.
    """
    per_ms = rate_per_s / 1e3
    choices = [(max(1, round(per_ms * period_ms)), period_ms) for period_ms in (1, 2, 3)]
    if per_ms < 1.0:
        choices.append((1, max(1, round(1.0 / per_ms))))
    return min(choices, key=lambda one: abs(math.log(one[0] / one[1] / per_ms)) + 0.03 * one[0])


def _headers(server: Server) -> list[str]:
    pairs = [
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        ("grpc-timeout", DEADLINE),
        *server.metadata,
    ]
    return [f"--header={name}: {value}" for name, value in pairs]


def _logged_ms(log: Path) -> list[float]:
    """Durations from h2load's log: start, HTTP status, microseconds."""
    rows = (line.split("\t") for line in log.read_text().splitlines())
    return [int(row[2]) / 1e3 for row in rows if row[1] == "200"]


def _percentiles(latencies_ms: Sequence[float]) -> tuple[float, float]:
    """(p50, p99); not a number for fewer than two."""
    if len(latencies_ms) < 2:
        return float("nan"), float("nan")
    cuts = statistics.quantiles(latencies_ms, n=100, method="inclusive")
    return cuts[49], cuts[98]
