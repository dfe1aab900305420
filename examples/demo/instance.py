"""A real `partywall up` in a data directory of its own."""

from __future__ import annotations

import json
import queue
import subprocess
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from terminal import PARTYWALL, DemoError, Terminal, child_environment

_READY_TIMEOUT_S = 120.0
_STOP_TIMEOUT_S = 20.0
_FREE_PORT = "127.0.0.1:0"


class Instance:
    """Router and agent on this machine, started and stopped by the demo; a context manager."""

    def __init__(self, terminal: Terminal, data_dir: Path, *options: str) -> None:
        self._terminal = terminal
        self.data_dir = data_dir
        self._options = options
        self._process: subprocess.Popen[str] | None = None
        self._log_path = data_dir.with_name(f"{data_dir.name}.log")
        self.address = ""

    def __enter__(self) -> Self:
        self._terminal.partywall("init", "--data-dir", str(self.data_dir))
        self._terminal.show("up", "--data-dir", str(self.data_dir), *self._options)
        ports = [f"--{port}listen={_FREE_PORT}" for port in ("", "admin-", "link-", "metrics-")]
        with self._log_path.open("w") as log:
            self._process = subprocess.Popen(
                [str(PARTYWALL), "up", "--data-dir", str(self.data_dir), *ports, *self._options],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=child_environment(),
                # Ctrl-C reaches the demo alone, which then stops this in order.
                start_new_session=True,
            )
        try:
            self.address = self._wait_ready()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def admin(self, *arguments: str, show: bool = True) -> object:
        """An operator's command against this instance."""
        return self._terminal.partywall(*arguments, "--data-dir", str(self.data_dir), show=show)

    def tenant(self, key_file: Path, *arguments: str, show: bool = True) -> object:
        """A tenant's command against this instance."""
        connection = ("--address", self.address, "--api-key-file", str(key_file))
        return self._terminal.partywall(*arguments, *connection, show=show)

    def log_tail(self, lines: int = 15) -> str:
        """The end of what the instance logged."""
        return "\n".join(self._log_path.read_text(errors="replace").splitlines()[-lines:])

    def _wait_ready(self) -> str:
        process = self._process
        if process is None or process.stdout is None:
            raise DemoError("the instance was not started")
        lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=_read_lines, args=(process.stdout, lines), daemon=True).start()
        end_s = time.monotonic() + _READY_TIMEOUT_S
        while time.monotonic() < end_s and process.poll() is None:
            try:
                line = lines.get(timeout=0.2)
            except queue.Empty:
                continue
            if line.startswith("ready "):
                return str(json.loads(line.removeprefix("ready "))["address"])
        why = "ended" if process.poll() is not None else f"was not ready within {_READY_TIMEOUT_S:g} s"
        raise DemoError(f"partywall up ({self.data_dir.name}) {why}; its log ends:\n{self.log_tail()}")

    def _stop(self) -> None:
        process = self._process
        if process is None:
            return
        process.terminate()
        try:
            process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            # Its children die with it: each process of Partywall asks the kernel for that.
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()
        self._process = None


def _read_lines(stream: IO[str], lines: queue.Queue[str]) -> None:
    try:
        for line in stream:
            lines.put(line)
    except ValueError:
        # The stream was closed while the instance was being stopped.
        return
