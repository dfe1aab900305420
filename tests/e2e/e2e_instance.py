"""One `partywall up` with its own data directory, and the command line beside it."""

from __future__ import annotations

import io
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raw_models import STEP_S, RawModels

from partywall.cli import main as cli

Done = subprocess.CompletedProcess[str]
START_S = 120.0
ARCHITECTURES = Path(__file__).resolve().parents[2] / "examples" / "architectures.py"


@dataclass
class Instance:
    """One `partywall up` with its own data directory."""

    root: Path
    options: tuple[str, ...] = ()
    ready: dict[str, Any] = field(default_factory=dict)
    process: subprocess.Popen[str] | None = None

    @property
    def data_dir(self) -> Path:
        return self.root / "data"

    @property
    def address(self) -> str:
        return str(self.ready["address"])

    def start(self) -> Instance:
        if not self.data_dir.exists():
            self.run("init")
        ports = [f"--{name}=127.0.0.1:0" for name in ("listen", "admin-listen", "link-listen", "metrics-listen")]
        with (self.root / "up.log").open("a") as log:
            self.process = subprocess.Popen(
                [
                    *SERVER,
                    "up",
                    "--data-dir",
                    str(self.data_dir),
                    *ports,
                    "--modules",
                    str(ARCHITECTURES),
                    *self.options,
                ],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment(),
            )
        line = read_line(self.process, START_S)
        assert line.startswith("ready "), f"{line!r}\n{self.log()}"
        self.ready = json.loads(line.removeprefix("ready "))
        return self

    def stop(self) -> int:
        if self.process is None:
            return 0
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(40)
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait(5)
            if self.process.stdout is not None:
                self.process.stdout.close()
            self.process = None

    def log(self) -> str:
        path = self.root / "up.log"
        return path.read_text()[-6000:] if path.exists() else ""

    def run(self, *arguments: str, check: int | None = 0, key: str | None = None) -> Done:
        """A command line as an operator (or, with `key`, as a tenant), without a new interpreter."""
        command = [*arguments, "--data-dir", str(self.data_dir), *(("--api-key", key) if key else ())]
        with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
            code = cli.run(command)
        return self._checked(subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue()), check)

    def command(self, *arguments: str, check: int | None = 0, key: str | None = None) -> Done:
        """The same in a process of its own, where the process is the point."""
        command = [*CLI, *arguments, "--data-dir", str(self.data_dir)]
        extra = {"PARTYWALL_API_KEY": key} if key else {}
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=STEP_S, check=False, env={**environment(), **extra}
        )
        return self._checked(done, check)

    def _checked(self, done: Done, check: int | None) -> Done:
        if check is not None:
            assert done.returncode == check, (
                f"{done.args}: {done.returncode}\n{done.stdout}\n{done.stderr}\n{self.log()}"
            )
        return done

    def json(self, *arguments: str, key: str | None = None) -> Any:
        return json.loads(self.run(*arguments, "-o", "json", key=key).stdout)

    def tenant(self, name: str, *quota: str) -> str:
        """A new tenant; answers its API key."""
        self.run("tenants", "create", name)
        if quota:
            self.run("quota", "set", name, *quota)
        return str(self.json("keys", "issue", name)["key"])

    def push(self, key: str, name: str, folder: Path, *options: str) -> None:
        self.run("models", "push", name, str(folder), "--slo-ms", "100", "--wait", *options, key=key)

    def replicas(self) -> list[dict[str, Any]]:
        return list(self.json("fleet", "show")["replicas"])

    def replica(self, model: str) -> dict[str, Any]:
        return next(r for r in self.replicas() if r["model"] == model)

    def models_stub(self, key: str) -> RawModels:
        return RawModels(self.address, key)


CLI = [sys.executable, "-m", "partywall.cli.main"]
_ENDS_WITH_US = """
import signal
from isolation.sandbox.kernel import LinuxKernel
LinuxKernel().set_parent_death_signal(signal.SIGTERM)
from partywall.cli.main import main
main()
"""
SERVER = [sys.executable, "-c", _ENDS_WITH_US]
"""The command line, ended with the tests' own process even when that is killed."""


def environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith("PARTYWALL_")} | {"NO_COLOR": "1"}


def read_line(process: subprocess.Popen[str], limit_s: float) -> str:
    assert process.stdout is not None
    readable, _, _ = select.select([process.stdout], [], [], limit_s)
    return process.stdout.readline() if readable else ""


def eventually(condition: Callable[[], Any], limit_s: float = STEP_S, every_s: float = 0.05) -> Any:
    """The first true answer of `condition`, within the bound."""
    limit = time.monotonic() + limit_s
    while time.monotonic() < limit:
        answer = condition()
        if answer:
            return answer
        time.sleep(every_s)
    raise AssertionError(f"not within {limit_s} s: {condition}")
