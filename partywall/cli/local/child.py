"""One process that the supervisor starts, starts anew with growing pauses, and ends."""

from __future__ import annotations

import os
import select
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from partywall.clock import Clock

POLL_S = 0.05
STANDARD_ERROR = 2


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start one child: its command line, and what is added to the environment."""

    argv: Sequence[str]
    environment: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Timing:
    """All in seconds."""

    router_start_s: float = 60.0
    agent_start_s: float = 300.0
    stop_s: float = 20.0
    first_backoff_s: float = 0.5
    max_backoff_s: float = 30.0
    stable_s: float = 60.0
    online_poll_s: float = 0.1


class Child:
    """One supervised process with its back-off."""

    def __init__(self, name: str, clock: Clock, timing: Timing) -> None:
        self.name = name
        self.restart_at: float | None = None
        self._clock = clock
        self._timing = timing
        self._process: subprocess.Popen[bytes] | None = None
        self._pidfd = -1
        self._started_at = 0.0
        self._backoff_s = timing.first_backoff_s

    @property
    def pid(self) -> int:
        return self._process.pid if self._process is not None else 0

    @property
    def pidfd(self) -> int | None:
        return self._pidfd if self._pidfd >= 0 else None

    def start(self, launch: Launch) -> None:
        # Standard output belongs to the one line that says "ready".
        self._process = subprocess.Popen(
            launch.argv,
            stdin=subprocess.DEVNULL,
            stdout=STANDARD_ERROR,
            env={**os.environ, **launch.environment},
            process_group=0,
        )
        self._pidfd = os.pidfd_open(self._process.pid)
        self._started_at = self._clock.monotonic()
        self.restart_at = None

    def poll(self) -> int | None:
        """The exit status, once, after the process has ended; None before and afterwards."""
        if self._process is None or (status := self._process.poll()) is None:
            return None
        self._forget()
        return status

    def schedule_restart(self) -> float:
        """Sets when it is started again; the delay doubles unless it had been stable."""
        now = self._clock.monotonic()
        if now - self._started_at >= self._timing.stable_s:
            self._backoff_s = self._timing.first_backoff_s
        delay_s, self._backoff_s = self._backoff_s, min(self._timing.max_backoff_s, self._backoff_s * 2)
        self.restart_at = now + delay_s
        return delay_s

    def stop(self, hurry: Callable[[], bool]) -> bool:
        """SIGTERM, then SIGKILL after `stop_s` or when there is a hurry; True if it left by itself with 0."""
        if self._process is None:
            return True
        self._process.terminate()
        deadline = self._clock.monotonic() + self._timing.stop_s
        while self._process.poll() is None and self._clock.monotonic() < deadline and not hurry():
            select.select([self._pidfd], [], [], POLL_S)
        if self._process.poll() is None:
            self._process.kill()
        status = self._process.wait()
        self._forget()
        return status == 0

    def _forget(self) -> None:
        os.close(self._pidfd)
        self._process, self._pidfd = None, -1


def describe(status: int) -> str:
    """How a process ended."""
    return f"signal {signal.Signals(-status).name}" if status < 0 else f"exit code {status}"
