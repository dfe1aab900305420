"""The zygote's process as its client holds it."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

from node_agent.arena import DEFAULT_BYTES
from node_agent.zygote import preload
from partywall.v1 import worker_pb2


@dataclass(frozen=True, slots=True)
class ZygoteOptions:
    """How the zygote is started."""

    preload: tuple[str, ...] = preload.FRAMEWORKS
    """Modules imported before the first fork, beside those that every worker needs."""
    environment: Mapping[str, str] | None = None
    """What its environment is made of; None: this process's. Scrubbed either way."""
    ready_timeout_s: float = 180.0
    """With a cold disk the imports take half a minute."""
    spawn_timeout_s: float = 30.0
    arena_bytes: int = DEFAULT_BYTES


@dataclass(slots=True)
class ZygoteProcess:
    popen: subprocess.Popen[bytes]
    control: socket.socket
    ready: asyncio.Future[worker_pb2.ZygoteReady] | None = None

    def end(self, grace_s: float = 0.0) -> None:
        """Closes the socket, waits for the process at most `grace_s`, then kills it."""
        self.control.close()
        try:
            self.popen.wait(grace_s)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()


def kill(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def try_send(control: socket.socket, message: worker_pb2.ToZygote) -> None:
    try:
        control.send(message.SerializeToString())
    except OSError:
        # It is gone already, which is what was asked for.
        return
