"""One version profiled for real: an instance of its own, a small network pushed to it, and `partywall profile`.

    python benchmarks/served_profile.py [--full]

Prints the profile as JSON. Works on whatever device the placement chooses: a GPU where there is one.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from benchmarks.dataplane.servers import CLI, environment, started
from partywall.errors import Unavailable

ARCHITECTURES = Path(__file__).resolve().parents[1] / "examples" / "architectures.py"
INPUTS, HIDDEN, OUTPUTS = 1024, 4096, 256
STEP_S = 600.0


def profile(*, quick: bool = True, hidden: int = HIDDEN) -> Mapping[str, Any]:
    """What `partywall profile -o json` printed.

    Raises:
        RuntimeError: The instance did not start; its own words are in the message.
        Unavailable: A command failed; likewise.
    """
    with tempfile.TemporaryDirectory(prefix="partywall-profile-") as name:
        folder = Path(name)
        _write_network(folder / "mlp", hidden)
        with _instance(folder / "data") as data:
            _run(data, "tenants", "create", "acme")
            sizes = {"architecture": "mlp", "inputs": INPUTS, "hidden": hidden, "outputs": OUTPUTS}
            options = [part for key, value in sizes.items() for part in ("--option", f"{key}={value}")]
            push = ("models", "push", "mlp", str(folder / "mlp"), "--engine", "module", "--slo-ms", "1000")
            _run(data, *push, *options, "--promote", "--wait", "--tenant", "acme")
            found = _run(data, "profile", "mlp", "--tenant", "acme", "--anyway", *(("--quick",) if quick else ()))
    (record,) = json.loads(found)["profiles"]
    answer: Mapping[str, Any] = record
    return answer


def _write_network(folder: Path, hidden: int) -> None:
    rng = np.random.default_rng(0)
    folder.mkdir()
    weights = {
        "0.weight": rng.standard_normal((hidden, INPUTS)).astype(np.float32),
        "0.bias": np.zeros(hidden, np.float32),
        "2.weight": rng.standard_normal((OUTPUTS, hidden)).astype(np.float32),
        "2.bias": np.zeros(OUTPUTS, np.float32),
    }
    save_file(weights, folder / "model.safetensors")


@contextmanager
def _instance(data: Path) -> Iterator[Path]:
    _run(data, "init")
    ports = [f"--{port}listen=127.0.0.1:0" for port in ("", "admin-", "link-", "metrics-")]
    command = [*CLI, "up", "--data-dir", str(data), *ports, "--modules", str(ARCHITECTURES)]
    with started(command, data.with_suffix(".log")):
        yield data


def _run(data: Path, *arguments: str) -> str:
    done = subprocess.run(
        [*CLI, *arguments, "--data-dir", str(data), *(() if arguments[0] == "init" else ("-o", "json"))],
        capture_output=True,
        text=True,
        timeout=STEP_S,
        check=False,
        env=environment(),
    )
    if done.returncode:
        raise Unavailable(f"partywall {' '.join(arguments[:3])} ended with {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--full", action="store_true", help="all runs, not only the quick ones")
    print(json.dumps(profile(quick=not parser.parse_args().full), indent=2))


if __name__ == "__main__":
    main()
