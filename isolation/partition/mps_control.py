"""The seam to one MPS daemon; its real side is `mps_daemon`.

One daemon serves one GPU, with a pipe directory of its own: a fault then stays on that GPU. An ordinary user
suffices (measured), if the workers run under the same one.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from partywall.errors import DeadlineExceeded, NotReady, PermissionDenied, Reason


class MpsSlow(DeadlineExceeded):
    """The control channel did not answer in time. That says nothing about the daemon's health."""

    default_reason = Reason.DEADLINE_EXCEEDED
    retryable = True


class MpsDown(NotReady):
    """There is no daemon to talk to."""

    default_reason = Reason.WRONG_STATE


class MpsForbidden(PermissionDenied):
    """This user may not start a daemon here."""


class ServerState(enum.StrEnum):
    """What the server says of itself; in `fault` it takes no new clients until all hit ones are gone."""

    ABSENT = "absent"
    INITIALIZING = "initializing"
    ACTIVE = "active"
    FAULT = "fault"


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """A process that cannot be mistaken for a later one with the same number."""

    pid: int
    started_ticks: int


class MpsControl(Protocol):
    """One daemon. Verbs may block for seconds and are serialised: concurrent queries make daemons time out."""

    @property
    def pipe_directory(self) -> Path:
        """What clients find the daemon by."""
        ...

    def start(self) -> None:
        """Starts the daemon, or finds the one that already serves this directory.

        Raises:
            Unsupported, NotReady, MpsForbidden: There is none, it does not start, or we may not start it.
        """
        ...

    def stop(self) -> None:
        """Ends daemon and server; fine when there is none."""
        ...

    def alive(self) -> bool:
        """By the identity of the process, never by a query."""
        ...

    def server_pid(self) -> int | None:
        """The server comes with the first client. Raises `MpsSlow`, `MpsDown`."""
        ...

    def server_state(self) -> ServerState:
        """Raises `MpsSlow`, `MpsDown`."""
        ...

    def clients(self) -> tuple[int, ...]:
        """Pids with a context on the server. Raises `MpsSlow`, `MpsDown`."""
        ...

    def terminate_client(self, pid: int) -> None:
        """Destroys a client's contexts, so that the process can be killed without hurting its neighbours."""
        ...

    def add_sm_partition(self, chunks: int) -> str:
        """An exclusive set of SMs; returns its name. Raises `Unsupported` unless the daemon partitions statically."""
        ...

    def remove_sm_partition(self, name: str) -> None: ...
