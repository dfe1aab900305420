"""The profiler on a real GPU: that each CUDA probe runs, how steady it is, what two cost each other, and a whole
`partywall profile` of a served network.

Needs a GPU and torch with CUDA. Every check stands by itself: one that fails or is not possible here is named so, and
the others go on. Two probes at once are behind shares of an MPS daemon started for them where its binary is installed,
and time-sliced otherwise; the page says which. Writes OUT.json and OUT.md after each check; changes no setting of the
GPU.

    python benchmarks/gpu_profile.py [--seconds 0.4] [--repeats 5] [--out docs/results/gpu-profile]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path

from benchmarks import served_profile
from benchmarks.gpu.daemon import own_daemon
from benchmarks.gpu.findings import Finding, Report, end_by_signal, guarded
from benchmarks.gpu.processes import START_S, LineProcess
from isolation.devices.nvml import open_nvml
from isolation.interference.probes import DutyCycle, Progress, calibrate
from isolation.interference.probes_cuda import CUDA_RESOURCES, make_cuda_load
from isolation.interference.rounds import relative_spread
from isolation.partition.mps_daemon import BINARY
from partywall.domain.profiles import ProbeSetting, Resource

STEADY = 0.05
"""Distance between the quartiles of a probe's unit / its median, alone."""
SHARE_PERCENT = 50
PAIRED = (Resource.DRAM, Resource.L2, Resource.POWER)


class Probe(LineProcess):
    """A probe in a process of its own; presses when told to. `ready` first: starting takes seconds."""

    def __init__(self, resource: Resource, environment: Mapping[str, str]) -> None:
        super().__init__([sys.executable, __file__, "--role", resource.value], {**os.environ, **environment})

    def ready(self) -> None:
        self.answer(START_S)

    def press(self, seconds: float) -> None:
        """Begins; `progress` waits for the end."""
        self.say(seconds)

    def progress(self) -> Progress:
        return Progress(**self.answer())


@contextmanager
def probes(resources: Sequence[Resource], environment: Mapping[str, str]) -> Iterator[list[Probe]]:
    """All of them, started side by side."""
    with ExitStack() as stack:
        made = []
        for resource in resources:
            made.append(Probe(resource, environment))
            stack.callback(made[-1].end)
        yield made


@contextmanager
def shares() -> Iterator[dict[str, str]]:
    """What puts a process behind half of the GPU: a daemon of our own, for as long as this lasts. Empty: none here."""
    library = open_nvml()
    if library is None or shutil.which(BINARY) is None:
        yield {}
        return
    with library, tempfile.TemporaryDirectory(prefix="pw") as folder:
        uuid = library.gpus()[0].uuid
        with own_daemon(uuid, Path(folder)) as control:
            control.start()
            share = {"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": str(SHARE_PERCENT)}
            yield {**share, "CUDA_MPS_PIPE_DIRECTORY": str(control.pipe_directory), "CUDA_VISIBLE_DEVICES": uuid}


def serve(resource: Resource) -> int:
    """The probe's process: ready, then a window for each line of standard input."""
    cycle = DutyCycle(make_cuda_load(resource), 1.0)
    print(json.dumps(asdict(cycle.run_for(0.0))), flush=True)
    for line in sys.stdin:
        print(json.dumps(asdict(cycle.run_for(float(line)))), flush=True)
    return 0


def check_alone(probe: Probe, resource: Resource, seconds: float, repeats: int) -> Finding:
    """Runs, and repeats within `STEADY`."""
    probe.ready()
    windows = []
    for _ in range(repeats + 1):
        probe.press(seconds)
        windows.append(probe.progress())
    kept = windows[1:]
    found = calibrate(ProbeSetting(resource), kept)
    spread = relative_spread([w.unit_ms for w in kept])
    seen = f"{found.unit_ms:.3f} ms a unit, quartiles {spread:.1%} apart, {found.spread:.1%} from least to most"
    return Finding(f"{resource.value} alone", spread <= STEADY, seen, {"unit_ms": [w.unit_ms for w in kept]})


def check_pair(name: str, one: Probe, other: Probe, seconds: float, repeats: int, behind: str) -> Finding:
    """Interleaved rounds of alone and beside: that both make progress. The slowdowns are data, not a verdict."""
    ratios: list[float] = []
    for _ in range(repeats):
        one.press(seconds)
        alone = one.progress().unit_ms
        one.press(seconds)
        other.press(seconds)
        ratios.append(one.progress().unit_ms / alone)
        other.progress()
    middle = sorted(ratios)[len(ratios) // 2]
    seen = f"slowed {middle:.2f} times ({behind}), quartiles {relative_spread(ratios):.1%} apart"
    return Finding(name, middle > 0, seen, {"ratios": ratios})


def all_alone(seconds: float, repeats: int) -> Iterator[Finding]:
    """Each probe by itself on the whole GPU; the others wait in their processes."""
    with probes(CUDA_RESOURCES, {}) as made:
        for resource, probe in zip(CUDA_RESOURCES, made, strict=True):
            name = f"{resource.value} alone"
            yield from guarded(name, lambda p=probe, r=resource: iter([check_alone(p, r, seconds, repeats)]))  # type: ignore[misc]


def all_pairs(seconds: float, repeats: int) -> Iterator[Finding]:
    """Every pair of `PAIRED`, each side in a process of its own that stays for all pairs."""
    with shares() as environment, probes(PAIRED * 2, environment) as made:
        for probe in made:
            probe.ready()
        ours, theirs = made[: len(PAIRED)], made[len(PAIRED) :]
        behind = f"MPS, {SHARE_PERCENT} % each" if environment else "time slicing"
        for r, one in zip(PAIRED, ours, strict=True):
            for s, other in zip(PAIRED, theirs, strict=True):
                name = f"{r.value} beside {s.value}"

                def pair(n: str = name, a: Probe = one, b: Probe = other) -> Iterator[Finding]:
                    yield check_pair(n, a, b, seconds, repeats, behind)

                yield from guarded(name, pair)


def check_served() -> Finding:
    """An instance of its own, a network pushed to it and profiled, on the GPU."""
    import torch

    record = served_profile.profile()
    ours = torch.cuda.get_device_name(0)
    on_gpu = record["device_type"] == ours
    curves = f"{len(record['curves'])} points beside probes, spread {record['spread']:.1%}"
    seen = f"{record['runs']} runs on {record['device_type']}: {len(record['solo'])} solo latencies, {curves}"
    return Finding("partywall profile", bool(record["complete"] and on_gpu), seen)


def no_cuda() -> str | None:
    """Why nothing can be checked here; None: it can."""
    try:
        import torch
    except ImportError:
        return "torch is not installed (partywall[agent]); nothing was checked and nothing written"
    if not torch.cuda.is_available():
        return "torch shows no CUDA device on this machine; nothing was checked and nothing written"
    return None


def findings(seconds: float, repeats: int) -> Iterator[Finding]:
    """All checks."""
    parts: list[tuple[str, Callable[[], Iterator[Finding]]]] = [
        ("probes alone", lambda: all_alone(seconds, repeats)),
        ("probes in pairs", lambda: all_pairs(seconds, repeats)),
        ("partywall profile", lambda: iter([check_served()])),
    ]
    for name, part in parts:
        yield from guarded(name, part)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=0.4, help="length of one window")
    parser.add_argument("--repeats", type=int, default=5, help="windows or rounds of each check")
    parser.add_argument("--out", type=Path, help="where OUT.json and OUT.md go; without it they are only printed")
    parser.add_argument("--role", choices=[r.value for r in CUDA_RESOURCES], help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.role is not None:
        return serve(Resource(options.role))
    if (why := no_cuda()) is not None:
        print(why, file=sys.stderr)
        return 2
    end_by_signal()
    report = Report("The profiler's probes on a GPU", "Made by `benchmarks/gpu_profile.py`.", options.out)
    for finding in findings(options.seconds, options.repeats):
        report.add(finding)
    return report.status


if __name__ == "__main__":
    sys.exit(main())
