"""The real side of `MpsControl`, over `nvidia-cuda-mps-control`."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from isolation.partition.mps_control import MpsDown, MpsForbidden, MpsSlow, ProcessIdentity, ServerState
from partywall.errors import InvalidInput, NotReady, Reason, Unsupported

BINARY = "nvidia-cuda-mps-control"
_START_TIMEOUT_S = 20.0
_MAX_SOCKET_PATH = 107  # sun_path of AF_UNIX, without the final zero
_LONGEST_NAME = len("/control_privileged")
_NO_STATIC = "this driver's MPS cannot partition SMs statically; use an active-thread percentage"


class NvidiaMpsControl:
    """The daemon that NVIDIA's driver brings.

    Args:
        gpu_uuid: The only device the daemon serves; by UUID, because the server renumbers devices.
        directory: Ours alone, short enough for a socket's path; pipe and logs go below it.
        command: The control binary.
        static: Partition SMs statically (`-S`); drivers before CUDA 13.1 cannot.
        environment: What the daemon inherits; None: this process's environment.
        query_timeout_s: How long one control query may take.
    """

    def __init__(
        self,
        gpu_uuid: str,
        directory: Path,
        command: Sequence[str] = (BINARY,),
        static: bool = False,
        environment: Mapping[str, str] | None = None,
        query_timeout_s: float = 5.0,
    ) -> None:
        self._gpu_uuid = gpu_uuid
        self._pipe, self._log = directory / "pipe", directory / "log"
        if len(os.fsencode(self._pipe)) + _LONGEST_NAME > _MAX_SOCKET_PATH:
            raise InvalidInput(
                f"directory {directory} is too long for a socket; choose one of at most "
                f"{_MAX_SOCKET_PATH - _LONGEST_NAME - len('/pipe')} bytes",
                fields={"field": "directory"},
            )
        self._command = tuple(command)
        self._static = static
        self._environment = dict(os.environ if environment is None else environment)
        self._query_timeout_s = query_timeout_s
        self._channel = threading.Lock()
        self._daemon: ProcessIdentity | None = None

    @property
    def pipe_directory(self) -> Path:
        return self._pipe

    def start(self) -> None:
        with self._channel:
            if self._running() or self._adopt():
                return
            if shutil.which(self._command[0]) is None:
                raise Unsupported(f"{self._command[0]} is not on this machine; install the NVIDIA driver's MPS tools")
            try:
                for folder in (self._pipe, self._log):
                    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                self._launch()
            except PermissionError as error:
                raise MpsForbidden(f"the MPS daemon for {self._gpu_uuid} may not be started: {error}") from error
            # The launcher may return before the daemon has written its number down.
            if not self._soon(self._adopt):
                if self._static:
                    raise Unsupported(_NO_STATIC)
                raise MpsDown(f"the MPS daemon for {self._gpu_uuid} ended at once; see {self._log}/control.log")

    def stop(self) -> None:
        with self._channel:
            if self._running() or self._adopt():
                self._talk("quit")
                if not self._soon(lambda: not self._running()):
                    raise MpsSlow(f"the MPS daemon for {self._gpu_uuid} was asked to quit and still runs")
            self._daemon = None

    def alive(self) -> bool:
        return self._running()

    def server_pid(self) -> int | None:
        pids = self._numbers("get_server_list")
        return pids[0] if pids else None

    def server_state(self) -> ServerState:
        pid = self.server_pid()
        if pid is None:
            return ServerState.ABSENT
        answer = self._query(f"get_server_status {pid}").strip().lower()
        for state in ServerState:
            if state.value in answer:
                return state
        raise MpsDown(f"the MPS server {pid} says {answer!r} of itself", fields={"server": str(pid)})

    def clients(self) -> tuple[int, ...]:
        server = self.server_pid()
        return () if server is None else self._numbers(f"get_client_list {server}")

    def terminate_client(self, pid: int) -> None:
        server = self.server_pid()
        if server is not None:
            self._query(f"terminate_client {server} {pid}")

    def add_sm_partition(self, chunks: int) -> str:
        self._check_static()
        answer = self._query(f"sm_partition add {self._gpu_uuid} {chunks}").strip()
        if "/" not in answer:
            raise NotReady(
                f"no partition of {chunks} chunks: {answer}", reason=Reason.NO_PLACE, fields={"chunks": str(chunks)}
            )
        return answer.split()[-1]

    def remove_sm_partition(self, name: str) -> None:
        self._check_static()
        self._query(f"sm_partition rm {self._gpu_uuid} {name}")

    def _check_static(self) -> None:
        if not self._static:
            raise Unsupported("this MPS daemon does not partition SMs statically; use an active-thread percentage")

    def _launch(self) -> None:
        # By doing, not by asking: `help` does not reliably name -S. An older binary prints its usage and fails.
        flags = ["-d", "-S"] if self._static else ["-d"]
        # Into a file: a daemon that keeps its launcher's output open would hold a pipe's reader for ever.
        said = self._log / "start.log"
        try:
            with said.open("wb") as out:
                done = subprocess.run(
                    [*self._command, *flags],
                    env=self._daemon_environment(),
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    timeout=_START_TIMEOUT_S,
                    check=False,
                )
        except subprocess.TimeoutExpired as error:
            raise MpsSlow(f"the MPS daemon for {self._gpu_uuid} took more than {_START_TIMEOUT_S} s") from error
        if done.returncode and self._static:
            raise Unsupported(_NO_STATIC)
        if done.returncode:
            text = said.read_text(errors="replace").strip()[-300:]
            kind = MpsForbidden if "permission" in text.lower() else MpsDown
            raise kind(f"the MPS daemon for {self._gpu_uuid} does not start: {text}")

    def _daemon_environment(self) -> dict[str, str]:
        return self._environment | {
            "CUDA_VISIBLE_DEVICES": self._gpu_uuid,
            "CUDA_MPS_PIPE_DIRECTORY": str(self._pipe),
            "CUDA_MPS_LOG_DIRECTORY": str(self._log),
        }

    def _adopt(self) -> bool:
        """Takes the daemon that serves our directory for ours, also after a restart of the agent."""
        try:
            pid = int((self._pipe / f"{BINARY}.pid").read_text())
            ours = _serves(pid, self._pipe)
        except (OSError, ValueError):
            return False  # no daemon, or a number that now belongs to somebody else's process
        self._daemon = _identity(pid) if ours else None
        return self._daemon is not None

    def _running(self) -> bool:
        return self._daemon is not None and _identity(self._daemon.pid) == self._daemon

    def _soon(self, condition: Callable[[], bool]) -> bool:
        give_up_s = time.monotonic() + self._query_timeout_s
        while not condition():
            if time.monotonic() > give_up_s:
                return False
            time.sleep(0.02)
        return True

    def _numbers(self, line: str) -> tuple[int, ...]:
        words = self._query(line).split()
        return tuple(int(word) for word in words if word.isdigit())

    def _query(self, line: str) -> str:
        with self._channel:
            if not self._running():
                raise MpsDown(f"the MPS daemon for {self._gpu_uuid} is not running; start it first")
            return self._talk(line)

    def _talk(self, line: str) -> str:
        try:
            done = subprocess.run(
                self._command,
                input=line.encode() + b"\n",
                env=self._daemon_environment(),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=self._query_timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise MpsSlow(f"the MPS daemon for {self._gpu_uuid} did not answer {line!r} in time") from error
        return done.stdout.decode(errors="replace")


def _serves(pid: int, pipe: Path) -> bool:
    wanted = b"CUDA_MPS_PIPE_DIRECTORY=" + os.fsencode(pipe)
    try:
        return wanted in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except PermissionError:
        # A daemon that hides its environment even from its own user: its number stands in a folder that is ours alone.
        return Path(f"/proc/{pid}/comm").read_text().startswith(BINARY[:15])


def _identity(pid: int) -> ProcessIdentity | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    state, *fields = stat.rpartition(")")[2].split()
    # A zombie has the number and serves nobody. Start time is field 22 of proc(5); three come before `fields`.
    return None if state == "Z" else ProcessIdentity(pid, int(fields[18]))
