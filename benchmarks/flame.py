"""A flame graph of router, agent or worker under load: python benchmarks/flame.py router [--out flame-router.svg]

Starts an instance with the identity model, loads it with 64 requests in flight and records with py-spy, which is
installed, once, into an environment of its own under `.bench/`. Recording another process needs ptrace: run as root, or
allow it (`sysctl kernel.yama.ptrace_scope=0`).
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
import threading
import venv
from pathlib import Path

from benchmarks.dataplane import payload
from benchmarks.dataplane.bench import BUSY
from benchmarks.dataplane.load import choose_client
from benchmarks.dataplane.servers import Server, partywall_server

ROLES = ("router", "agent", "worker")
VERSION = "0.4.3"
CACHE = Path(__file__).resolve().parents[1] / ".bench" / f"py-spy-{VERSION}"
PROBING, SAMPLES_PER_S = 2000, 250


def recorder() -> Path:
    """The py-spy to use; installs it where it is not there yet.

    Raises:
        subprocess.CalledProcessError: pip failed.
    """
    program = CACHE / "bin" / "py-spy"
    if not program.exists():
        venv.create(CACHE, with_pip=True, clear=True)
        pip = [str(CACHE / "bin" / "python"), "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
        subprocess.run([*pip, f"py-spy=={VERSION}"], check=True)
    return program


def record(role: str, seconds: int, out: Path) -> None:
    """Writes the graph.

    Raises:
        subprocess.CalledProcessError: py-spy failed; it has said why.
        RuntimeError: The instance or the client did not start.
    """
    program = recorder()
    with tempfile.TemporaryDirectory(prefix="partywall-flame-") as name:
        folder = Path(name)
        client = choose_client(folder)
        with partywall_server(folder) as server:
            server.probe(payload.request_bytes())
            per_s = client.run(server, BUSY, PROBING).per_s
            load = threading.Thread(target=client.run, args=(server, BUSY, round(per_s * (seconds + 2))))
            load.start()
            try:
                # py-spy's pauses would shift the load that is looked at: it reads without them.
                command = [str(program), "record", "--nonblocking", f"--pid={_pid(server, role)}", f"--output={out}"]
                command += [f"--duration={seconds}", f"--rate={SAMPLES_PER_S}", "--gil"]
                subprocess.run(command, check=True)
            finally:
                load.join()


def _pid(server: Server, role: str) -> int:
    """The last of a role's processes: of zygote and worker the worker."""
    return server.groups[role][-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("role", choices=ROLES)
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    out = options.out or Path(f"flame-{options.role}.svg")
    record(options.role, options.seconds, out)
    print(f"written: {out}")


if __name__ == "__main__":
    main()
