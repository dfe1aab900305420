"""The zygote's loop: one request in, one fork, one report per death. Single-threaded by contract."""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Sequence

from node_agent.zygote import child, preload
from partywall.errors import InternalError, PartywallError, Unavailable
from partywall.v1 import worker_pb2
from partywall.wire import convert

_PACKET_BYTES = 256 << 10
_DESCRIPTORS = 3
_LAST_CHILDREN_S = 2.0


class Zygote:
    """Serves one agent until it says stop or its socket closes."""

    def __init__(self, control: socket.socket, pid: int) -> None:
        self._control = control
        self._pid = pid
        self._children: dict[int, tuple[str, int]] = {}
        self._poll = select.poll()
        self._poll.register(control.fileno(), select.POLLIN)

    def serve(self, import_seconds: float) -> int:
        """Blocks; returns the exit status."""
        self._send(worker_pb2.FromZygote(ready=worker_pb2.ZygoteReady(pid=self._pid, import_seconds=import_seconds)))
        while True:
            for fd, _ in self._poll.poll():
                if fd != self._control.fileno():
                    self._reap(fd)
                elif not self._serve_request():
                    return 0

    def _serve_request(self) -> bool:
        data, descriptors, _, _ = socket.recv_fds(self._control, _PACKET_BYTES, _DESCRIPTORS)
        if not data:
            # The agent is gone; the children's sockets say the same to them.
            return False
        request = worker_pb2.ToZygote.FromString(data)
        if request.WhichOneof("kind") == "stop":
            self._await_children()
            return False
        self._spawn(request.spawn, descriptors)
        return True

    def _spawn(self, request: worker_pb2.SpawnWorker, descriptors: Sequence[int]) -> None:
        answer = worker_pb2.WorkerForked(worker_id=request.worker_id)
        try:
            answer.pid = self._fork(request, descriptors)
        except PartywallError as failure:
            answer.error.CopyFrom(convert.error_to_proto(failure))
        finally:
            for fd in descriptors:
                os.close(fd)
        self._send(worker_pb2.FromZygote(forked=answer))

    def _fork(self, request: worker_pb2.SpawnWorker, descriptors: Sequence[int]) -> int:
        if len(descriptors) != _DESCRIPTORS:
            raise InternalError(f"a worker needs {_DESCRIPTORS} descriptors, {len(descriptors)} came with the request")
        if (threads := preload.thread_count()) != 1:
            raise InternalError(
                f"the zygote has {threads} threads and cannot fork safely; a module in --preload starts one"
            )
        try:
            pid = os.fork()
        except OSError as failure:
            raise Unavailable(
                f"no process for worker {request.worker_id}: {failure.strerror}; raise the process limit of the agent"
            ) from failure
        if pid == 0:
            child.become_worker(request, descriptors, self._pid)
        pidfd = os.pidfd_open(pid)
        self._children[pidfd] = (request.worker_id, pid)
        self._poll.register(pidfd, select.POLLIN)
        return pid

    def _reap(self, pidfd: int) -> None:
        worker_id, pid = self._children.pop(pidfd)
        self._poll.unregister(pidfd)
        os.close(pidfd)
        _, status = os.waitpid(pid, 0)
        code = os.waitstatus_to_exitcode(status)
        self._send(worker_pb2.FromZygote(exited=worker_pb2.WorkerExited(worker_id=worker_id, pid=pid, code=code)))

    def _await_children(self) -> None:
        deadline = time.monotonic() + _LAST_CHILDREN_S
        self._poll.unregister(self._control.fileno())
        while self._children and (left_s := deadline - time.monotonic()) > 0:
            for fd, _ in self._poll.poll(left_s * 1e3):
                self._reap(fd)

    def _send(self, message: worker_pb2.FromZygote) -> None:
        try:
            self._control.send(message.SerializeToString())
        except (BrokenPipeError, ConnectionResetError):
            # The agent is gone; the next read says so and ends the loop.
            return
