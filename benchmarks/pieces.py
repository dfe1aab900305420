"""Pieces of the request's road, each beside what it took the place of: CPU microseconds, by ratio in one run.

Run: python benchmarks/pieces.py [--rounds 7]; writes docs/results/pieces.json and pieces.md. Half a minute.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Histogram

from benchmarks.dataplane.processes import machine
from partywall.clock import SystemClock
from partywall.domain.models import Signature, TensorSpec
from partywall.domain.tenants import Quota
from partywall.v1 import agent_link_pb2 as link
from partywall.wire.inference import ModelInferRequest
from partywall.wire.tails import decoder, join
from router.gateway.requests import parse_request
from router.gateway.shared_throttle import QuotaBook, SharedThrottle
from router.gateway.statistics import Statistics
from router.gateway.tensors import RequestCheck, check_request
from router.gateway.throttle import Throttle

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"
ROUND_S = 0.15
LARGE = 2 << 20


@dataclass(frozen=True, slots=True)
class Piece:
    """Two ways to do the same: `before` and `after` are called alike."""

    name: str
    before: Callable[[], object]
    after: Callable[[], object]


@dataclass(frozen=True, slots=True)
class Measured:
    """CPU microseconds per call, medians over interleaved rounds; the ratio is taken round by round."""

    name: str
    before_us: float
    after_us: float
    ratio: float


def cpu_us(call: Callable[[], object], seconds: float) -> float:
    """CPU time of this thread per call."""
    count, started_s, started_ns = 0, time.monotonic(), time.thread_time_ns()
    while time.monotonic() - started_s < seconds:
        for _ in range(10):
            call()
        count += 10
    return (time.thread_time_ns() - started_ns) / count / 1e3


def measure(piece: Piece, rounds: int) -> Measured:
    pairs = [(cpu_us(piece.before, ROUND_S), cpu_us(piece.after, ROUND_S)) for _ in range(rounds)]
    before, after = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(b / a for a, b in pairs)
    return Measured(piece.name, round(before, 2), round(after, 2), round(ratio, 3))


def pieces(folder: Path) -> list[Piece]:
    return [_known(), _large_parse(), _large_hop(), _metrics(), _quota(folder)]


def _request(size: int) -> bytes:
    message = ModelInferRequest(model_name="m", id="r")
    message.inputs.add(name="x", datatype="FP32", shape=[1, size // 4])
    message.raw_input_contents.append(np.zeros(size // 4, "<f4").tobytes())
    data: bytes = message.SerializeToString()
    return data


def _known() -> Piece:
    signature = Signature((TensorSpec("x", "FP32", (-1, 256)),), (TensorSpec("y", "FP32", (-1, 256)),), max_batch=8)
    message, sizes = parse_request(ModelInferRequest, _request(1024))
    check = RequestCheck(signature)
    return Piece(
        "tensors of a 1 KB request checked: looked at anew, known again",
        lambda: check_request(message, sizes, signature),
        lambda: check.rows(message, sizes),
    )


def _large_parse() -> Piece:
    data = _request(LARGE)

    def whole() -> object:
        message = ModelInferRequest.FromString(data)
        return message, [len(one) for one in message.raw_input_contents]

    return Piece(
        "2 MB request read by the router: parsed whole, cut apart",
        whole,
        lambda: parse_request(ModelInferRequest, data),
    )


def _large_hop() -> Piece:
    body, place, decode = bytes(LARGE), memoryview(bytearray(LARGE)), decoder(link.RouterFrame.FromString)

    def field() -> None:
        frame = link.RouterFrame()
        frame.calls.add(id=1, handle=1, request=body)
        for call in link.RouterFrame.FromString(frame.SerializeToString()).calls:
            place[:] = call.request

    def tail() -> None:
        frame = link.RouterFrame()
        frame.calls.add(id=1, handle=1, tail=1)
        opened, tails = decode(join(frame, [body]))
        for call in opened.calls:
            place[:] = tails[call.tail - 1]

    return Piece("2 MB over the link, into shared memory: as a field, as a tail", field, tail)


def _metrics() -> Piece:
    registry = CollectorRegistry()
    served = Counter("a", "a", ("tenant", "model", "outcome"), registry=registry).labels("t", "m", "OK")
    met = Counter("b", "b", ("tenant", "model", "met"), registry=registry).labels("t", "m", "true")
    seconds, queue, batch = (
        Histogram(name, name, ("tenant", "model"), registry=registry).labels("t", "m") for name in ("c", "d", "e")
    )
    statistics_ = Statistics(CollectorRegistry())
    reply = link.InferReply(queue_us=100, service_us=200, batch_requests=4)

    def library() -> None:
        served.inc()
        met.inc()
        seconds.observe(0.01)
        queue.observe(reply.queue_us / 1e6)
        batch.observe(reply.batch_requests)

    return Piece(
        "one served request counted: prometheus_client's metrics, plain cells",
        library,
        lambda: statistics_.served("t", "t", "m", 1, 0.01, reply, 50, 1),
    )


def _quota(folder: Path) -> Piece:
    quota, clock = Quota(requests_per_s=1e6, burst=100_000), SystemClock()
    alone, shared = Throttle(clock), SharedThrottle(clock, QuotaBook(folder, 0, 2))

    def through(throttle: Any) -> Callable[[], None]:
        def step() -> None:
            entering = throttle.enter("t", quota)
            try:
                entering.send(None)
            except StopIteration:
                throttle.leave("t")

        return step

    return Piece("quota of one request: in one process, in the book of several", through(alone), through(shared))


def page(found: list[Measured], made_by: str) -> str:
    where = machine()
    rows = [f"| {one.name} | {one.before_us:g} | {one.after_us:g} | {one.ratio:g} |" for one in found]
    return "\n".join(
        [
            "# Pieces of the request's road",
            "",
            f"Made by `{made_by}`. Machine: {where.cpu}, {where.cores} cores, Python {where.python}.",
            "",
            "| piece: before, after | before, CPU us | after, CPU us | ratio |",
            "| --- | --- | --- | --- |",
            *rows,
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="partywall-pieces-") as name:
        found = [measure(piece, options.rounds) for piece in pieces(Path(name))]
    options.out.mkdir(parents=True, exist_ok=True)
    text = page(found, f"python benchmarks/pieces.py --rounds {options.rounds}")
    document = {"machine": asdict(machine()), "pieces": [asdict(one) for one in found]}
    (options.out / "pieces.json").write_text(json.dumps(document, indent=1) + "\n")
    (options.out / "pieces.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
