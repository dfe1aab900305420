"""The zygote's process as its client holds it."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from isolation.sandbox import scrub_environment
from node_agent.arena import DEFAULT_BYTES
from node_agent.zygote import preload
from partywall.v1 import worker_pb2

_STDERR = 2


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

    @classmethod
    def launch(cls, options: ZygoteOptions) -> ZygoteProcess:
        """Starts it without waiting; the kernel ends it when the thread that called this ends.

        Raises:
            OSError: There is no process or no socket to be had.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        command = [sys.executable, "-m", "node_agent.zygote", "--control", str(theirs.fileno())]
        command += ["--parent", str(os.getpid()), "--preload", *options.preload]
        source = os.environ if options.environment is None else options.environment
        with theirs:
            popen = subprocess.Popen(
                command,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                # What a library prints belongs to the log; the agent's own output is for its operator.
                stdout=_STDERR,
                env={**scrub_environment(source), **preload.THREAD_LIMITS},
                start_new_session=True,
            )
        return cls(popen, ours)

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
