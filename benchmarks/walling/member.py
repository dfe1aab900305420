"""A victim or a neighbour: takes its confinement on, says what it sees of itself, then obeys lines of JSON.

python -m benchmarks.walling.member ROLE CONFINEMENT
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from collections.abc import Generator
from dataclasses import asdict
from typing import Any

from benchmarks.gpu.processes import ANSWER_S, START_S, LineProcess
from isolation.partition.confine import confine_self, observe_self
from isolation.partition.partitioner import WorkerConfinement

WIDTH, LAYERS, BATCH = 512, 4, 16
NEIGHBOUR_THREADS = 4
MIN_BATCHES = 40
"""A p95 of fewer says nothing; a busy machine takes longer than asked for instead."""
ROLES = ("victim", "neighbour")


class Member(LineProcess):
    """Such a process as the benchmark holds it; `observed` is what it saw of itself behind its walls."""

    def __init__(self, role: str, confinement: WorkerConfinement | None) -> None:
        given = json.dumps(None if confinement is None else asdict(confinement))
        super().__init__([sys.executable, "-m", "benchmarks.walling.member", role, given], own_session=False)
        self.observed = self.answer(START_S)

    def latencies_ms(self, seconds: float) -> list[float]:
        """A victim's batches in that time, or until there are enough."""
        self.say({"seconds": seconds})
        found: list[float] = self.answer(ANSWER_S + seconds)
        return found

    def saturate(self, run: bool) -> None:
        """Sets a neighbour going, or pauses it."""
        self.say({"run": run})
        self.answer()


def play(role: str, confinement: WorkerConfinement | None) -> None:
    """A member's life: take the confinement on, import torch, obey."""
    base = confine_self(confinement) if confinement else 0
    import torch

    if confinement:
        torch.set_num_threads(confinement.threads)
    tell(asdict(observe_self(base, torch.get_num_threads())))
    obey = measure_on_request() if role == "victim" else saturate_on_request()
    next(obey)
    for line in sys.stdin:
        tell(obey.send(json.loads(line)))


def measure_on_request() -> Generator[Any, Any, None]:
    """The victim: a multi-layer perceptron, one batch after the other; answers with latencies in milliseconds."""
    import torch

    torch.manual_seed(0)
    layers: list[torch.nn.Module] = []
    for _ in range(LAYERS):
        layers += [torch.nn.Linear(WIDTH, WIDTH), torch.nn.ReLU()]
    model, batch = torch.nn.Sequential(*layers), torch.randn(BATCH, WIDTH)
    answer: Any = None
    while True:
        request = yield answer
        latencies: list[float] = []
        with torch.inference_mode():
            end = time.perf_counter() + request["seconds"]
            while time.perf_counter() < end or len(latencies) < MIN_BATCHES:
                begun = time.perf_counter()
                model(batch)
                latencies.append((time.perf_counter() - begun) * 1000)
        answer = latencies


def saturate_on_request() -> Generator[Any, Any, None]:
    """The neighbour: threads that multiply matrices for as long as they may, paused at first."""
    import torch

    running = threading.Event()

    def burn() -> None:
        matrix = torch.randn(WIDTH, WIDTH)
        while True:
            running.wait()
            torch.mm(matrix, matrix)

    for _ in range(NEIGHBOUR_THREADS):
        threading.Thread(target=burn, daemon=True).start()
    answer: Any = None
    while True:
        request = yield answer
        (running.set if request["run"] else running.clear)()
        answer = {"running": request["run"]}


def tell(message: Any) -> None:
    print(json.dumps(message), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("role", choices=ROLES)
    parser.add_argument("confinement", help="a WorkerConfinement as JSON, or null")
    options = parser.parse_args()
    given = json.loads(options.confinement)
    play(options.role, WorkerConfinement(**given) if given else None)


if __name__ == "__main__":
    main()
