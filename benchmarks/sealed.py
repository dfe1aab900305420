"""How fast a sealed file opens beside a plain read of the same bytes, both from the page cache into existing memory.

Run: python benchmarks/sealed.py [--size-mib 512] [--rounds 5] [--threads 1]
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from partywall.sealed import Context, FileSource, SealedReader, Sealer
from partywall.sealed.reader import default_threads

MIB = 1 << 20
PATTERN_MIB = 8


def measure(size_mib: int = 512, rounds: int = 5, threads: int | None = None) -> dict[str, float]:
    """Median GB/s (1e9 bytes) over interleaved rounds.

    Args:
        size_mib: Size of the plaintext.
        threads: Threads of `open_into`; None: one per core, four at the most.

    Returns:
        open_gb_s (sealed, authenticated, decrypted), readinto_gb_s (the plain file), seal_gb_s (file to file, with
        both digests), open_over_readinto, open_1_gb_s (one thread), threads, size_mib, rounds.
    """
    threads = threads or default_threads()
    with tempfile.TemporaryDirectory(prefix="partywall-bench-") as folder:
        return _measure_in(Path(folder), size_mib, rounds, threads)


def _measure_in(folder: Path, size_mib: int, rounds: int, threads: int) -> dict[str, float]:
    size = size_mib * MIB
    plain, sealed = folder / "plain", folder / "sealed"
    pattern = os.urandom(PATTERN_MIB * MIB)
    with plain.open("wb") as out:
        for _ in range(0, size, len(pattern)):
            out.write(pattern[: size - out.tell()])
    key = os.urandom(32)
    context = Context(str(uuid.uuid4()), "bench", 1, "plain")
    # Anonymous mapping, touched once: page faults belong to neither side.
    target = memoryview(mmap.mmap(-1, size))
    times: dict[str, list[float]] = {"seal": [], "open": [], "open_1": [], "readinto": []}

    def seal() -> None:
        _seal_file(plain, sealed, key, context)

    def read() -> None:
        with plain.open("rb", buffering=0) as source:
            got = 0
            while got < size:
                got += source.readinto(target[got:])

    def open_with(count: int) -> Callable[[], None]:
        def run() -> None:
            with FileSource(sealed) as source:
                SealedReader(source, key, context).open_into(target, count)

        return run

    steps = {"seal": seal, "readinto": read, "open": open_with(threads), "open_1": open_with(1)}
    for step in steps.values():
        step()
    for _ in range(rounds):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            times[name].append(time.perf_counter() - start)
    assert bytes(target[:64]) == pattern[:64], "what was opened is not what was sealed"
    speed = {f"{name}_gb_s": round(size / statistics.median(taken) / 1e9, 3) for name, taken in times.items()}
    ratio = round(speed["open_gb_s"] / speed["readinto_gb_s"], 3)
    return {**speed, "open_over_readinto": ratio, "threads": threads, "size_mib": size_mib, "rounds": rounds}


def _seal_file(plain: Path, sealed: Path, key: bytes, context: Context) -> None:
    sealer = Sealer(plain.stat().st_size, key, context, str(uuid.uuid4()))
    with plain.open("rb", buffering=0) as source, sealed.open("wb", buffering=0) as out:
        for view in sealer.stream(source):
            out.write(view)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size-mib", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=None)
    options = parser.parse_args()
    print(json.dumps(measure(options.size_mib, options.rounds, options.threads)))


if __name__ == "__main__":
    main()
