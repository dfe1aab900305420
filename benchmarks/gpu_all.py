"""`make test-gpu`: every check on hardware, one part after the other, each within its time; prints the plan first.

A part that fails, hangs or is not possible does not stop the others; each writes what it found as it goes. Ends with 0
if every check passed, 1 if one failed or a part ran out of its time, 2 if nothing can be checked here.

    python benchmarks/gpu_all.py [--out docs/results] [--only checks,live,profile]
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MODULES = (
    "torch numpy safetensors transformers grpc grpc_status grpc_health grpc_reflection google.protobuf cryptography "
    "typer rich structlog uvloop prometheus_client sqlalchemy alembic aiosqlite asyncio_throttle scipy pynvml "
    "partywall.v1.fleet_pb2 pytest pytest_asyncio pytest_timeout xdist hypothesis"
)
GRACE_S = 30.0
"""From the polite signal to the other one; an instance drains first."""


@dataclass(frozen=True, slots=True)
class Part:
    """One script, the name of its page, and its time in seconds."""

    name: str
    page: str
    limit_s: float

    def command(self, out: Path) -> list[str]:
        return [sys.executable, str(ROOT / "benchmarks" / f"gpu_{self.name}.py"), "--out", str(out / self.page)]


PARTS = (Part("checks", "gpu", 170.0), Part("live", "gpu-live", 170.0), Part("profile", "gpu-profile", 190.0))
Run = Callable[[Sequence[str], float], int | None]
"""Runs a command for at most so many seconds; its exit status, None: it ran out of its time."""


def missing(names: Sequence[str] = tuple(MODULES.split())) -> list[str]:
    """Modules that this Python cannot import."""

    def there(name: str) -> bool:
        try:
            return importlib.util.find_spec(name) is not None
        except ImportError:
            return False

    wire = ROOT / "partywall" / "wire" / "inference.binpb"
    return [name for name in names if not there(name)] + ([] if wire.is_file() else [str(wire)])


def run(command: Sequence[str], limit_s: float) -> int | None:
    """In a process group of its own, so that nothing it started in it stays."""
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True)
    try:
        return process.wait(limit_s)
    except subprocess.TimeoutExpired:
        return None
    finally:
        for how in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(process.pid, how)
                process.wait(GRACE_S)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue


def run_all(parts: Sequence[Part], out: Path, run_one: Run = run) -> int:
    """All parts; answers the exit status."""
    statuses: list[int] = []
    for part in parts:
        print(f"== {part.name}: at most {part.limit_s:.0f} s", flush=True)
        begun = time.monotonic()
        status = run_one(part.command(out), part.limit_s)
        said = "ran out of its time; what it found until then is written" if status is None else f"ended with {status}"
        print(f"== {part.name} {said}, after {time.monotonic() - begun:.0f} s", flush=True)
        statuses.append(1 if status is None else status)
    return 2 if statuses and all(status == 2 for status in statuses) else int(any(statuses))


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/results"), help="the folder of the pages")
    parser.add_argument("--only", default="", help="parts, with commas between them")
    options = parser.parse_args(given)
    wanted = [part for part in PARTS if not options.only or part.name in options.only.split(",")]
    if not wanted:
        parser.error(f"--only takes {', '.join(part.name for part in PARTS)}")
    if lacks := missing():
        print(
            f"{sys.executable} lacks {', '.join(lacks)}; `make setup` installs them, and for a machine without a "
            "network `python benchmarks/gpu_bundle.py` packs them elsewhere (docs/walls.md)",
            file=sys.stderr,
        )
        return 2
    mps = shutil.which("nvidia-cuda-mps-control") or "not on PATH: shares cannot be checked"
    print(f"Python {platform.python_version()} at {sys.executable}; MPS control: {mps}")
    plan = " + ".join(f"{part.name} {part.limit_s:.0f} s" for part in wanted)
    print(f"at most {plan} = {sum(part.limit_s for part in wanted):.0f} s; pages go to {options.out}", flush=True)
    return run_all(wanted, options.out.absolute())


if __name__ == "__main__":
    sys.exit(main())
