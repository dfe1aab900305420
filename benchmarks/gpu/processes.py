"""A child process that talks in lines of JSON. Every wait has an end, and so has every child."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
START_S, ANSWER_S, END_S = 90.0, 60.0, 10.0


class LineProcess:
    """Started at once; `answer` waits for its next line.

    Args:
        command: What to start, from the checkout's root.
        env: Its environment; None: this one.
        own_session: False: it stays in this session, as workers of one zygote do, where the kernel may schedule
            session by session; what it starts itself is then not ended with it.
    """

    def __init__(self, command: Sequence[str], env: Mapping[str, str] | None = None, own_session: bool = True) -> None:
        self._own_session = own_session
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=None if env is None else dict(env),
            start_new_session=own_session,
        )
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def say(self, message: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message) + "\n")
        self._process.stdin.flush()

    def answer(self, limit_s: float = ANSWER_S) -> Any:
        """The next line that is JSON.

        Raises:
            RuntimeError: It ended before that.
            TimeoutError: It did not say anything in time.
        """
        try:
            line = self._lines.get(timeout=limit_s)
        except queue.Empty:
            raise TimeoutError(f"pid {self.pid} said nothing for {limit_s:.0f} s") from None
        if line is None:
            raise RuntimeError(f"pid {self.pid} ended with {self._status()} before it answered; its error stands above")
        return json.loads(line)

    def end(self, how: signal.Signals = signal.SIGTERM) -> None:
        """Sends the signal, waits, and kills what is still there."""
        if self._process.poll() is None:
            self._process.send_signal(how)
        if self._status() is None:
            (os.killpg if self._own_session else os.kill)(self.pid, signal.SIGKILL)
            self._status()
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()
        # A child of the child's may hold the other end of standard output: then the reader goes with this process.
        self._reader.join(1.0)

    def _status(self) -> int | None:
        try:
            return self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            return None

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                # What a library prints on the way is not an answer.
                if line.lstrip().startswith(("{", "[")):
                    self._lines.put(line)
        self._lines.put(None)
