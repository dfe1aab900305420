"""What a GPU machine without a network lacks, in one folder that travels with the checkout.

Such a machine has Python, torch with CUDA, numpy, scipy and transformers of its own; none of these is replaced. The
pinned rest of what the GPU checks import goes into the folder, as wheels for that machine's Python.

    python benchmarks/gpu_bundle.py [--python 3.12] [--into .gpu]
    there:  make test-gpu GPU_PYTHON=python3       after copying the checkout, the folder, partywall/v1 and
                                                   partywall/wire/inference.binpb
"""

from __future__ import annotations

import argparse
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_WANTED = """
aiosqlite alembic annotated-doc asyncio-throttle cffi click cryptography execnet googleapis-common-protos greenlet
grpcio grpcio-health-checking grpcio-reflection grpcio-status hypothesis iniconfig mako markdown-it-py markupsafe mdurl
nvidia-ml-py packaging pluggy prometheus-client protobuf pycparser pygments pytest pytest-asyncio pytest-timeout
pytest-xdist rich safetensors shellingham sortedcontainers sqlalchemy structlog typer typing-extensions uvloop
"""
NAMES = tuple(_WANTED.split())
_GLIBC = (17, 24, 26, 27, 28, 31, 34)
"""glibc 2.N of the wheels' platforms; pip matches each exactly."""
_LIMIT_S = 600


def pins(constraints: str, names: Sequence[str] = NAMES) -> list[str]:
    """The constraints' lines for `names`. A name that is not pinned is a ValueError."""
    known = {line.partition("==")[0]: line for line in constraints.split() if "==" in line}
    if missing := [name for name in names if name not in known]:
        raise ValueError(f"constraints.txt does not pin {', '.join(missing)}")
    return [known[name] for name in names]


def command(python: str, into: Path, wanted: Sequence[str], machine: str) -> list[str]:
    """pip's command line: wheels only, for another interpreter than the one that runs it."""
    platforms = [f"--platform=manylinux_2_{minor}_{machine}" for minor in _GLIBC]
    platforms += [f"--platform=manylinux2014_{machine}", f"--platform=manylinux1_{machine}"]
    choice = ["--no-deps", "--only-binary=:all:", "--implementation=cp", f"--python-version={python}", *platforms]
    return [sys.executable, "-m", "pip", "download", "--quiet", f"--dest={into}", *choice, *wanted]


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default="3.12", help="the other machine's Python")
    parser.add_argument("--machine", default=platform.machine(), help="its processor")
    parser.add_argument("--into", type=Path, default=ROOT / ".gpu")
    options = parser.parse_args(given)
    wanted = pins((ROOT / "constraints.txt").read_text())
    done = subprocess.run(command(options.python, options.into, wanted, options.machine), timeout=_LIMIT_S, check=False)
    if done.returncode == 0:
        print(f"{len(wanted)} packages for Python {options.python} are in {options.into}")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
