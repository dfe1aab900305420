"""The small supervisor behind `partywall up`: starts router and agent, keeps them up, ends them in order.

It waits on process descriptors, so it costs nothing while nothing happens. Children get SIGTERM when it dies
(`--parent-pid`), run in process groups of their own (Ctrl-C reaches only the supervisor), and are ended by their pids.
"""

from __future__ import annotations

import json
import select
import signal
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TypeAlias, TypeVar

from partywall.cli.local.child import Child, Launch, Timing, describe
from partywall.clock import Clock
from partywall.errors import DeadlineExceeded, PartywallError, Reason, Unavailable

T = TypeVar("T")
Addresses: TypeAlias = Mapping[str, str]
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is supervised. `router` gets None at the first start and its addresses at later ones."""

    data_dir: Path
    router: Callable[[Addresses | None], Launch]
    agent: Callable[[Addresses], Launch]
    agent_online: Callable[[Addresses], bool]
    on_ready: Callable[[Addresses, int, int], None]


class Supervisor:
    """Runs in the main thread, once."""

    def __init__(self, plan: Plan, clock: Clock, timing: Timing, note: Callable[[str], None]) -> None:
        self._plan = plan
        self._clock = clock
        self._timing = timing
        self._note = note
        self._router = Child("router", clock, timing)
        self._agent = Child("agent", clock, timing)
        self._signals: list[int] = []
        self._wake: socket.socket | None = None

    def run(self) -> int:
        """Until a signal comes; 0 when all ended cleanly, 130 after Ctrl-C, 1 otherwise.

        Raises:
            Unavailable: A child ended before it was ready.
            DeadlineExceeded: A child was not ready in time.
        """
        with self._signal_wakeups():
            try:
                addresses = self._start()
                if addresses is not None:
                    self._plan.on_ready(addresses, self._router.pid, self._agent.pid)
                    self._watch(addresses)
            finally:
                clean = self._stop()
        if self._signals[:1] == [signal.SIGINT]:
            return 130
        return 0 if clean else 1

    def _start(self) -> Addresses | None:
        """Addresses once everything is up; None when a signal came first."""
        path = self._plan.data_dir / "run" / "addresses.json"
        path.unlink(missing_ok=True)
        self._router.start(self._plan.router(None))
        addresses = self._await(self._router, lambda: _fresh_addresses(path), self._timing.router_start_s)
        if addresses is None:
            return None
        self._agent.start(self._plan.agent(addresses))
        online = self._await(
            self._agent, lambda: self._plan.agent_online(addresses) or None, self._timing.agent_start_s
        )
        return addresses if online else None

    def _await(self, child: Child, probe: Callable[[], T | None], limit_s: float) -> T | None:
        deadline = self._clock.monotonic() + limit_s
        while not self._signals:
            for watched in (self._router, self._agent):
                if (status := watched.poll()) is not None:
                    raise _ended_early(watched.name, status)
            if (found := probe()) is not None:
                return found
            if self._clock.monotonic() > deadline:
                raise DeadlineExceeded(f"the {child.name} was not ready within {limit_s:g} s; its log is above")
            self._sleep(self._timing.online_poll_s)
        return None

    def _watch(self, addresses: Addresses) -> None:
        launches = {
            self._router: lambda: self._plan.router(addresses),
            self._agent: lambda: self._plan.agent(addresses),
        }
        while not self._signals:
            for child, launch in launches.items():
                if (status := child.poll()) is not None:
                    delay_s = child.schedule_restart()
                    self._note(f"the {child.name} ended with {describe(status)}; starting it again in {delay_s:g} s")
                if child.restart_at is not None and self._clock.monotonic() >= child.restart_at:
                    self._restart(child, launch)
            self._sleep(self._next_restart_in())

    def _restart(self, child: Child, launch: Callable[[], Launch]) -> None:
        try:
            child.start(launch())
        except PartywallError as error:
            # The agent's launch may need a router that is itself coming back.
            self._note(f"the {child.name} cannot be started yet: {error.message}")
            child.schedule_restart()

    def _next_restart_in(self) -> float | None:
        times = [child.restart_at for child in (self._router, self._agent) if child.restart_at is not None]
        return max(0.0, min(times) - self._clock.monotonic()) if times else None

    def _sleep(self, seconds: float | None) -> None:
        """Until a child ends, a signal comes, or the time is over."""
        wake = self._wake
        descriptors = [fd for child in (self._router, self._agent) if (fd := child.pidfd) is not None]
        if wake is not None:
            descriptors.append(wake.fileno())
        ready, _, _ = select.select(descriptors, [], [], seconds)
        if wake is not None and wake.fileno() in ready:
            wake.recv(64)

    def _stop(self) -> bool:
        """Router first, so that the agent is there for what the router still drains; a second signal ends the wait."""
        before = len(self._signals)

        def hurry() -> bool:
            return len(self._signals) > max(1, before)

        router_clean = self._router.stop(hurry)
        return self._agent.stop(hurry) and router_clean

    @contextmanager
    def _signal_wakeups(self) -> Iterator[None]:
        receive, send = socket.socketpair()
        receive.setblocking(False)
        send.setblocking(False)
        self._wake = receive
        previous = {number: signal.signal(number, self._on_signal) for number in _SIGNALS}
        old_fd = signal.set_wakeup_fd(send.fileno())
        try:
            yield
        finally:
            signal.set_wakeup_fd(old_fd)
            for number, handler in previous.items():
                signal.signal(number, handler)
            self._wake = None
            receive.close()
            send.close()

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self._signals.append(number)


def _fresh_addresses(path: Path) -> Addresses | None:
    """The router's addresses; None while the file is not there or not whole."""
    try:
        found = json.loads(path.read_text())
        return {key: str(found[key]) for key in ("public", "admin", "link", "metrics")}
    except (OSError, ValueError, KeyError):
        return None


def _ended_early(name: str, status: int) -> Unavailable:
    return Unavailable(
        f"the {name} ended with {describe(status)} before it was ready; its log is above",
        reason=Reason.UNREACHABLE,
        fields={"hint": "mend what the log says and start again"},
    )
