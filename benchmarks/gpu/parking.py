"""Weights that leave a GPU and come back, with the very code that workers run: a process behind a share, told by lines.

    python -m benchmarks.gpu.parking CONFINEMENT [--mib 4096] [--simulate]

`--simulate` counts the bytes of a device that is not there: it tries this file, not a GPU.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.findings import Finding
from benchmarks.gpu.processes import START_S, LineProcess
from isolation.partition.confine import confine_self
from isolation.partition.partitioner import WorkerConfinement

MIB = 1 << 20
WIDTH = 4096
"""A layer of this width in half precision weighs 32 MiB."""
WEIGHTS_MIB = 4096
CAP_BYTES = 8 << 30
COMMAND = (sys.executable, "-m", "benchmarks.gpu.parking")


def check_parking(bench: Bench, command: Sequence[str] = COMMAND, mib: int = WEIGHTS_MIB) -> Iterator[Finding]:
    """Parking frees device memory for others, waking brings the same answers back, and it is refused while the memory
    is not there."""
    partition = bench.part("parking", 50, CAP_BYTES)
    confinement = json.dumps(asdict(bench.partitioner.prepare(partition)))
    try:
        process = LineProcess([*command, confinement, "--mib", str(mib)])
        try:
            yield from _findings(bench, process)
        finally:
            bench.partitioner.before_kill(partition, process.pid)
            process.end()
    finally:
        bench.partitioner.release(partition)


def _findings(bench: Bench, process: LineProcess) -> Iterator[Finding]:
    def used() -> int:
        return bench.library.memory(bench.gpu.uuid).used_bytes

    def do(what: str) -> dict[str, Any]:
        process.say({"do": what})
        answer: dict[str, Any] = process.answer()
        if "error" in answer:
            raise RuntimeError(f"{what}: {answer['error']}")
        return answer

    process.answer(START_S)
    driver_before = used()
    parked = do("park")
    driver_freed = driver_before - used()
    freed, size = parked["freed_bytes"], parked["size_bytes"]
    seen = f"{freed >> 20} MiB of {size >> 20} MiB freed in the process, {driver_freed >> 20} MiB by the driver; "
    seen += f"{parked['left_bytes'] >> 20} MiB stay in its allocator; off the device at {_rate(parked):.1f} GB/s, "
    seen += "page-locked" if parked["pinned"] else "pageable: page-locked memory was refused"
    data = {**parked, "driver_freed_bytes": driver_freed, "gb_per_s": _rate(parked)}
    # The simulated driver knows nothing of the bytes that a simulated process counts.
    enough = freed >= 0.95 * size and (bool(parked["simulated"]) or driver_freed >= 0.95 * size)
    yield Finding("parking gives device memory back", enough and parked["pinned"], seen, data)
    woken = do("wake")
    seen = f"{woken['size_bytes'] >> 20} MiB in {woken['seconds']:.3f} s: {_rate(woken):.1f} GB/s; "
    seen += "the same answers" if woken["same"] else "other answers"
    yield Finding("parked weights come back", bool(woken["same"]), seen, {**woken, "gb_per_s": _rate(woken)})
    refused, again = do("wake without room"), do("wake")
    ok = bool(refused["refused"]) and bool(again["same"])
    seen = f"{refused['refused'] or 'not refused'}; afterwards {'the same' if again['same'] else 'other'} answers"
    yield Finding("waking without room is refused and can be done later", ok, seen)


def _rate(moved: dict[str, Any]) -> float:
    return float(moved["size_bytes"] / moved["seconds"] / 1e9) if moved["seconds"] else 0.0


def play(mib: int, *, simulate: bool) -> None:
    """The process: a network on the device, then one command a line."""
    import torch

    from node_agent.worker.device_memory import CudaMemory, DeviceMemory, SimulatedMemory
    from node_agent.worker.moving import MovableWeights

    width, dtype, count = (64, torch.float32, 4) if simulate else (WIDTH, torch.float16, mib * MIB // (2 * WIDTH**2))
    size = count * width * width * dtype.itemsize
    memory: DeviceMemory = SimulatedMemory(3 * size) if simulate else CudaMemory()
    torch.manual_seed(7)
    layers = [torch.nn.Linear(width, width, False, memory.device, dtype) for _ in range(count)]
    network = torch.nn.ModuleList(layers).eval().requires_grad_(False)
    memory.place(network)
    weights = MovableWeights(network, memory)
    rows = torch.randn(8, width, device=memory.device, dtype=dtype)

    def answers() -> Any:
        with torch.inference_mode():
            # Each layer by itself: a chain of so many would end in zeros.
            return torch.stack([layer(rows).float().mean(0) for layer in layers]).cpu()

    def free() -> int:
        return -memory.used_bytes() if simulate else int(torch.cuda.mem_get_info()[0])

    def ballast() -> list[torch.nn.Module]:
        """Takes the device's memory until less than half of the weights is left."""
        held: list[torch.nn.Module] = []
        while True:
            block = torch.nn.Module()
            try:
                block.register_buffer("block", torch.empty(size // 2, dtype=torch.uint8, device=memory.device))
                memory.place(block)
            except RuntimeError:
                return held
            held.append(block)

    expected = answers()
    memory.release()
    tell(ready=True)
    for line in sys.stdin:
        what = json.loads(line)["do"]
        try:
            if what == "park":
                before = free()
                moved = weights.park()
                tell(**asdict(moved), freed_bytes=free() - before, simulated=simulate)
            elif what == "wake":
                moved = weights.wake()
                tell(**asdict(moved), same=bool(torch.equal(answers(), expected)))
            else:
                weights.park()
                tell(refused=_refused(weights.wake, ballast))
                memory.release()
        except RuntimeError as error:
            tell(error=str(error)[:300])


def _refused(wake: Any, ballast: Any) -> str:
    """What waking says while somebody else has the memory; empty: nothing."""
    held = ballast()
    try:
        wake()
    except RuntimeError as error:
        return str(error).split("\n", 1)[0][:200]
    finally:
        del held
    return ""


def tell(**message: Any) -> None:
    print(json.dumps(message), flush=True)


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("confinement", help="a WorkerConfinement as JSON")
    parser.add_argument("--mib", type=int, default=WEIGHTS_MIB, help="weights")
    parser.add_argument("--simulate", action="store_true")
    options = parser.parse_args(given)
    confine_self(WorkerConfinement(**json.loads(options.confinement)))
    play(options.mib, simulate=options.simulate)


if __name__ == "__main__":
    main()
