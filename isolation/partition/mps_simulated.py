"""The simulated side of MPS: a daemon, and CUDA processes that find it or silently do not.

Models a server that comes with the first client, shares fixed when a client starts, the client limit, one user per
server, the documented fault (everybody on the server is hit) beside the benign one measured on an H100, control
queries that time out under concurrency, and static SM partitions in chunks.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from isolation.devices.facts import ProcessKind
from isolation.devices.simulated_gpu import SimulatedGpu
from isolation.partition.attest import share_multiprocessors
from isolation.partition.mps_control import MpsDown, MpsSlow, ServerState
from isolation.partition.partitioner import Observation
from partywall.errors import NotReady, Reason, Unsupported

CLIENT_LIMIT = 48
SMS_PER_CHUNK = 8
SERVER_NOT_READY = 807
MAX_CLIENTS = 808
INVALID_RESOURCE_CONFIGURATION = 915
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


class CudaError(Exception):
    """A CUDA process could not start; `code` is the driver's (807 server not ready, 808 too many clients)."""

    def __init__(self, code: int) -> None:
        super().__init__(f"CUDA error {code}")
        self.code = code


@dataclass(frozen=True, slots=True)
class _Client:
    pid: int
    multiprocessors: int
    cap_bytes: int | None
    partition: str = ""


class SimulatedMps:
    """`MpsControl` over a simulated GPU. `cuda_process` and `fault` are the world's side."""

    def __init__(self, gpu: SimulatedGpu, pipe_directory: Path, static: bool = False, uid: int = 1000) -> None:
        self._gpu = gpu
        self._pipe = pipe_directory
        self._static = static
        self._uid = uid
        self._lock = threading.RLock()
        self._busy = threading.Semaphore(1)
        self._alive = False
        self._server: int | None = None
        self._next_server = 900_000
        self._clients: dict[int, _Client] = {}
        self._hit: set[int] = set()
        self._partitions: dict[str, int] = {}
        self._named = 0

    @property
    def pipe_directory(self) -> Path:
        return self._pipe

    def start(self) -> None:
        with self._lock:
            self._alive = True

    def stop(self) -> None:
        with self._lock:
            for pid in list(self._clients):
                self.end_process(pid)
            self._alive, self._server = False, None
            self._partitions.clear()

    def alive(self) -> bool:
        return self._alive

    def server_pid(self) -> int | None:
        with self._query():
            return self._server

    def server_state(self) -> ServerState:
        with self._query():
            if self._server is None:
                return ServerState.ABSENT
            return ServerState.FAULT if self._hit else ServerState.ACTIVE

    def clients(self) -> tuple[int, ...]:
        with self._query():
            return tuple(sorted(self._clients))

    def terminate_client(self, pid: int) -> None:
        with self._query():
            self._disconnect(pid)

    def add_sm_partition(self, chunks: int) -> str:
        with self._query():
            if not self._static:
                raise Unsupported("this MPS daemon does not partition SMs statically; use an active-thread percentage")
            free = self._gpu.geometry.multiprocessors // SMS_PER_CHUNK - sum(self._partitions.values())
            if not 0 < chunks <= free:
                raise NotReady(f"no partition of {chunks} chunks: {free} are free", reason=Reason.NO_PLACE)
            self._named += 1
            name = f"{self._gpu.uuid}/part{self._named}"
            self._partitions[name] = chunks
            return name

    def remove_sm_partition(self, name: str) -> None:
        with self._query():
            if any(client.partition == name for client in self._clients.values()):
                raise NotReady(f"SM partition {name} has clients; end them first", reason=Reason.WRONG_STATE)
            self._partitions.pop(name, None)

    @contextmanager
    def slow_query(self) -> Iterator[None]:
        """While this is held another control query is under way: further ones time out."""
        with self._busy:
            yield

    def crash(self) -> None:
        """The daemon is killed; clients keep their server for a while, newcomers fall through."""
        with self._lock:
            self._alive = False

    def cuda_process(self, pid: int, environment: Mapping[str, str], uid: int | None = None) -> Observation:
        """A process initialises CUDA with this environment; what it then sees.

        Raises:
            CudaError: The daemon is there and refuses.
        """
        with self._lock:
            reachable = self._alive and environment.get("CUDA_MPS_PIPE_DIRECTORY") == str(self._pipe)
            if not reachable:
                self._gpu.start_process(pid)
                return Observation(pid, multiprocessors=self._gpu.geometry.multiprocessors, device_uuid=self._gpu.uuid)
            client = self._connect(pid, environment, self._uid if uid is None else uid)
            return Observation(
                pid,
                multiprocessors=client.multiprocessors,
                device_uuid=self._gpu.uuid,
                device_memory_bytes=client.cap_bytes,
                probe_refused=None if client.cap_bytes is None else True,
            )

    def allocate(self, pid: int, more_bytes: int) -> bool:
        """A client asks for device memory; False: out of memory in that client only."""
        with self._lock:
            client = self._clients.get(pid)
            held = next((p.used_bytes or 0 for p in self._gpu.processes() if p.pid == pid), 0)
            if client and client.cap_bytes is not None and held + more_bytes > client.cap_bytes:
                return False
            return self._gpu.allocate(pid, more_bytes)

    def fault(self, pid: int, benign: bool = False) -> tuple[int, ...]:
        """A client's kernel faults; returns who is hit: by the documentation everybody, measured only itself."""
        with self._lock:
            hit = (pid,) if benign else tuple(sorted(self._clients))
            if not benign:
                self._hit = set(hit)
            return hit

    def end_process(self, pid: int) -> None:
        """A process ends, in whatever way; without a server of its own it leaves the GPU as well."""
        with self._lock:
            self._disconnect(pid)
            self._gpu.end_process(pid)

    @contextmanager
    def _query(self) -> Iterator[None]:
        if not self._busy.acquire(blocking=False):
            raise MpsSlow(f"the MPS daemon for {self._gpu.uuid} did not answer in time")
        try:
            with self._lock:
                if not self._alive:
                    raise MpsDown(f"the MPS daemon for {self._gpu.uuid} is not running; start it first")
                yield
        finally:
            self._busy.release()

    def _connect(self, pid: int, environment: Mapping[str, str], uid: int) -> _Client:
        if uid != self._uid and self._clients:
            raise CudaError(SERVER_NOT_READY)
        if self._hit:
            raise CudaError(SERVER_NOT_READY)
        if len(self._clients) >= CLIENT_LIMIT:
            raise CudaError(MAX_CLIENTS)
        self._uid = uid
        client = _Client(pid, *self._share(environment))
        if self._server is None:
            self._next_server += 1
            self._server = self._next_server
        self._clients[pid] = client
        self._gpu.start_process(pid, kind=ProcessKind.MPS)
        return client

    def _share(self, environment: Mapping[str, str]) -> tuple[int, int | None, str]:
        cap = _cap_bytes(environment.get("CUDA_MPS_PINNED_DEVICE_MEM_LIMIT", ""))
        if not self._static:
            percent = int(environment.get("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "100"))
            return share_multiprocessors(self._gpu.geometry.multiprocessors, percent), cap, ""
        name = environment.get("CUDA_MPS_SM_PARTITION", "")
        if name not in self._partitions:
            raise CudaError(INVALID_RESOURCE_CONFIGURATION)
        return self._partitions[name] * SMS_PER_CHUNK, cap, name

    def _disconnect(self, pid: int) -> None:
        self._clients.pop(pid, None)
        self._hit.discard(pid)


def _cap_bytes(limits: str) -> int | None:
    for entry in filter(None, limits.split(",")):
        device, _, size = entry.partition("=")
        if device == "0":
            return int(size[:-1]) * _UNITS[size[-1]]
    return None
