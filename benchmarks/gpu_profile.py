"""The profiler on a real GPU: that each CUDA probe runs, how steady it is, what two cost each other, and a whole
`partywall profile` of a served network.

Needs a GPU and torch with CUDA. Every check stands by itself: one that fails or is not possible here is named so, and
the others go on. Two probes at once are behind MPS shares where an MPS daemon answers, and time-sliced otherwise; the
page says which. Writes OUT.json and OUT.md; changes no setting of the GPU.

    python benchmarks/gpu_profile.py [--seconds 0.5] [--repeats 7] [--out docs/results/gpu-profile]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import served_profile
from isolation.interference.probes import DutyCycle, Progress, calibrate
from isolation.interference.probes_cuda import CUDA_RESOURCES, make_cuda_load
from isolation.interference.rounds import relative_spread
from partywall.domain.profiles import ProbeSetting, Resource
from partywall.errors import PartywallError, Unavailable

STEADY = 0.05
"""Distance between the quartiles of a probe's unit / its median, alone."""
SHARE_PERCENT = 50
_ANSWER_LIMIT = 1 << 16


@dataclass(frozen=True, slots=True)
class Finding:
    """One check. `ok` None: not possible here."""

    name: str
    ok: bool | None
    seen: str


class Probe:
    """A probe in a process of its own, at half of the GPU where MPS is there; presses when told to."""

    def __init__(self, resource: Resource) -> None:
        share = {"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": str(SHARE_PERCENT)}
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--role", resource.value],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **share},
        )
        self._read()

    def press(self, seconds: float) -> None:
        """Begins; `answer` waits for the end."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{seconds}\n")
        self._process.stdin.flush()

    def answer(self) -> Progress:
        return Progress(**self._read())

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline(_ANSWER_LIMIT)
        if not line:
            raise Unavailable(f"a probe's process ended with {self._process.wait(20)}; its error stands above")
        found: dict[str, Any] = json.loads(line)
        return found


def serve(resource: Resource) -> int:
    """The probe's process: ready, then a window for each line of standard input."""
    cycle = DutyCycle(make_cuda_load(resource), 1.0)
    print(json.dumps(asdict(cycle.run_for(0.0))), flush=True)
    for line in sys.stdin:
        print(json.dumps(asdict(cycle.run_for(float(line)))), flush=True)
    return 0


def check_alone(resource: Resource, seconds: float, repeats: int) -> Finding:
    """Runs, and repeats within `STEADY`."""
    probe = Probe(resource)
    try:
        windows = []
        for _ in range(repeats + 1):
            probe.press(seconds)
            windows.append(probe.answer())
    finally:
        probe.close()
    kept = windows[1:]
    found = calibrate(ProbeSetting(resource), kept)
    spread = relative_spread([w.unit_ms for w in kept])
    seen = f"{found.unit_ms:.3f} ms a unit, quartiles {spread:.1%} apart, {found.spread:.1%} from least to most"
    return Finding(f"{resource.value} alone", spread <= STEADY, seen)


def check_pair(ours: Resource, theirs: Resource, seconds: float, repeats: int) -> Finding:
    """Interleaved rounds of alone and beside: that both make progress. The slowdowns are data, not a verdict."""
    one, other = Probe(ours), Probe(theirs)
    ratios: list[float] = []
    try:
        for _ in range(repeats):
            one.press(seconds)
            alone = one.answer().unit_ms
            one.press(seconds)
            other.press(seconds)
            ratios.append(one.answer().unit_ms / alone)
            other.answer()
    finally:
        one.close()
        other.close()
    middle = sorted(ratios)[len(ratios) // 2]
    behind = "MPS" if mps_answers() else "time slicing"
    seen = f"slows {middle:.2f} times beside {theirs.value} ({behind}), quartiles {relative_spread(ratios):.1%} apart"
    return Finding(f"{ours.value} beside {theirs.value}", middle > 0, seen)


def check_served() -> Finding:
    """An instance of its own, a network pushed to it and profiled, on the GPU."""
    import torch

    record = served_profile.profile()
    ours = torch.cuda.get_device_name(0)
    on_gpu = record["device_type"] == ours
    curves = f"{len(record['curves'])} points beside probes, spread {record['spread']:.1%}"
    seen = f"{record['runs']} runs on {record['device_type']}: {len(record['solo'])} solo latencies, {curves}"
    return Finding("partywall profile", bool(record["complete"] and on_gpu), seen)


def mps_answers() -> bool:
    """Whether an MPS daemon is there for processes of this user."""
    pipe = Path(os.environ.get("CUDA_MPS_PIPE_DIRECTORY", "/tmp/nvidia-mps"))  # noqa: S108 - the driver's own default
    return (pipe / "control").exists()


def guarded(name: str, check: Callable[[], Finding]) -> Finding:
    """A check that fails on the way is a finding too."""
    try:
        return check()
    except PartywallError as error:
        return Finding(name, False, error.message)
    except Exception as failure:
        return Finding(name, False, f"{type(failure).__name__}: {failure}")


def no_cuda() -> str | None:
    """Why nothing can be checked here; None: it can."""
    try:
        import torch
    except ImportError:
        return "torch is not installed (partywall[agent]); nothing was checked and nothing written"
    if not torch.cuda.is_available():
        return "torch shows no CUDA device on this machine; nothing was checked and nothing written"
    return None


def measure(seconds: float, repeats: int, say: Callable[[str], None]) -> list[Finding]:
    """All checks."""
    findings = []
    for resource in CUDA_RESOURCES:
        name = f"{resource.value} alone"
        say(name)
        findings.append(guarded(name, lambda r=resource: check_alone(r, seconds, repeats)))  # type: ignore[misc]
    for ours in (Resource.DRAM, Resource.L2, Resource.POWER):
        for theirs in (Resource.DRAM, Resource.L2, Resource.POWER):
            name = f"{ours.value} beside {theirs.value}"
            say(name)
            findings.append(guarded(name, lambda a=ours, b=theirs: check_pair(a, b, seconds, repeats)))  # type: ignore[misc]
    say("partywall profile")
    findings.append(guarded("partywall profile", check_served))
    return findings


def write(findings: Sequence[Finding], out: Path) -> None:
    """OUT.json and OUT.md."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".json").write_text(json.dumps([asdict(f) for f in findings], indent=2) + "\n")
    word = {True: "pass", False: "fail", None: "skipped"}
    rows = "\n".join(f"| {f.name} | {word[f.ok]} | {f.seen} |" for f in findings)
    text = f"# The profiler's probes on a GPU\n\n| check | | seen |\n| --- | --- | --- |\n{rows}\n"
    out.with_suffix(".md").write_text(text)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=0.5, help="length of one window")
    parser.add_argument("--repeats", type=int, default=7, help="windows or rounds of each check")
    parser.add_argument("--out", type=Path, help="where OUT.json and OUT.md go; without it they are only printed")
    parser.add_argument("--role", choices=[r.value for r in CUDA_RESOURCES], help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.role is not None:
        return serve(Resource(options.role))
    if (why := no_cuda()) is not None:
        print(why, file=sys.stderr)
        return 2
    findings = measure(options.seconds, options.repeats, lambda text: print(text, file=sys.stderr, flush=True))
    for finding in findings:
        print(f"{ {True: 'pass', False: 'FAIL', None: 'skip'}[finding.ok] }  {finding.name}: {finding.seen}")
    if options.out is not None:
        write(findings, options.out)
    return 1 if any(f.ok is False for f in findings) else 0


if __name__ == "__main__":
    sys.exit(main())
