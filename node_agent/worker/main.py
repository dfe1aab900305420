"""The worker's loop: one message in, one message out, in order. Blocking and single-threaded on purpose."""

from __future__ import annotations

import socket
import struct
import sys
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from node_agent import frames
from node_agent.arena import INLINE_BYTES, Arena, Ring
from node_agent.worker import engines
from node_agent.worker.batch import DeviceLost, Item, Outcome, Replica, classify
from node_agent.worker.loader import open_artifact
from node_agent.worker.shelf import Shelf
from partywall.domain.fleet import DeviceKind
from partywall.errors import InternalError, NotReady, PartywallError
from partywall.memory import TRIM_EVERY_S, trim
from partywall.sealed import wipe
from partywall.v1 import models_pb2, worker_pb2
from partywall.wire import convert

if TYPE_CHECKING:
    from node_agent.worker.device_memory import DeviceMemory

_READ_BYTES = 256 << 10
_IDLE_S = 2
EXIT_WALLS = 70
EXIT_DEVICE = 71


class Worker:
    """Serves one agent over one socket until it says stop, or is gone. `memory`: as of `engines.create`."""

    def __init__(
        self,
        sock: socket.socket,
        inbox: Arena,
        outbox: Arena,
        modules: tuple[str, ...],
        device_kind: DeviceKind,
        memory: Callable[[], DeviceMemory] | None = None,
    ) -> None:
        self._socket = sock
        self._inbox = inbox
        self._outbox = outbox
        self._ring = Ring(outbox)
        self._modules = modules
        self._device_kind = device_kind
        self._replicas: dict[int, Replica] = {}
        self._memory = memory
        self._shelf = Shelf(device_kind)
        self._untrimmed = True
        self._trim_at_s = 0.0

    def refuse(self, failure: PartywallError) -> None:
        """Tells the agent why there will be no worker."""
        self._send(worker_pb2.FromWorker(ready=worker_pb2.WorkerReady(error=convert.error_to_proto(failure))))

    def serve(self, attested: Mapping[str, str]) -> int:
        """Reports ready, then works until the end; returns the exit status."""
        self._send(worker_pb2.FromWorker(ready=worker_pb2.WorkerReady(attested=dict(attested))))
        reader = frames.FrameReader()
        # A bound on the read costs nothing while there is work, where a poll would cost every batch.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", _IDLE_S, 0))
        try:
            while (chunk := self._read()) != b"":
                for body in reader.feed(chunk or b""):
                    if not self._handle(worker_pb2.ToWorker.FromString(body)):
                        return 0
                self._trim(idle=chunk is None)
        except DeviceLost as failure:
            sys.stderr.write(f"partywall worker: the device is lost: {failure}\n")
            return EXIT_DEVICE
        except (BrokenPipeError, ConnectionResetError):
            # The agent is gone, and with it everyone who would read an answer.
            return 0
        return 0

    def _read(self) -> bytes | None:
        """What the agent sent; empty at its end, None: nothing for a while."""
        try:
            return self._socket.recv(_READ_BYTES)
        except BlockingIOError:
            return None

    def _trim(self, *, idle: bool) -> None:
        """Gives memory back that batches and loads left: when it has gone idle, and now and then while it has not."""
        now_s = time.monotonic()
        if self._untrimmed and (idle or now_s >= self._trim_at_s):
            trim()
            self._untrimmed, self._trim_at_s = False, now_s + TRIM_EVERY_S

    def _handle(self, message: worker_pb2.ToWorker) -> bool:
        kind = message.WhichOneof("kind")
        self._untrimmed = True
        if kind == "run":
            self._run(message.run)
        elif kind == "load":
            self._load(message.load)
        elif kind == "unload":
            self._replicas.pop(message.unload.handle, None)
            self._shelf.drop(message.unload.handle)
            self._give_back()
            self._send(worker_pb2.FromWorker(unloaded=message.unload.handle))
        elif kind == "park":
            self._park(message.park.handle)
        else:
            return False
        return True

    def _run(self, batch: worker_pb2.RunBatch) -> None:
        started_ns = time.monotonic_ns()
        replica, exhausted_rows = self._replicas.get(batch.handle), 0
        items = [Item(i.id, self._payload(i.request), i.deadline_us) for i in batch.items]
        if replica is None:
            missing = NotReady(f"replica {batch.handle} is not loaded in this worker; load it first")
            outcomes = [Outcome(item.id, [], missing) for item in items]
        else:
            outcomes = replica.run(items, started_ns // 1000)
            for _ in range(1, batch.repeat):
                outcomes = replica.run(items, started_ns // 1000)
            exhausted_rows = replica.exhausted_rows
        self._ring.release(self._outbox.consumed)
        message = worker_pb2.FromWorker()
        done = message.done
        done.batch_id, done.handle = batch.batch_id, batch.handle
        if exhausted_rows:
            done.exhausted_rows = exhausted_rows
        before = self._ring.mark
        for outcome in outcomes:
            self._add_result(done, outcome)
        if self._ring.mark != before:
            done.arena_mark = self._ring.mark
        done.service_us = (time.monotonic_ns() - started_ns) // 1000
        self._send(message)

    def _payload(self, payload: worker_pb2.Payload) -> bytes | memoryview:
        if payload.length:
            return self._inbox.read(payload.offset, payload.length)
        return payload.inline

    def _add_result(self, done: worker_pb2.BatchDone, outcome: Outcome) -> None:
        result = done.results.add(id=outcome.id)
        if outcome.error is not None:
            result.error.CopyFrom(convert.error_to_proto(outcome.error))
            return
        length = sum(map(len, outcome.parts))
        if length > INLINE_BYTES:
            offset = self._ring.write(outcome.parts, length)
            if offset is not None:
                result.response.offset, result.response.length = offset, length
                return
        result.response.inline = b"".join(outcome.parts)

    def _load(self, request: worker_pb2.LoadReplica) -> None:
        started_s = time.monotonic()
        result = worker_pb2.LoadResult(handle=request.handle)
        key = bytearray(request.data_key)
        request.ClearField("data_key")
        try:
            if request.handle in self._replicas:
                raise InternalError(f"replica {request.handle} is loaded already")
            if request.handle in self._shelf:
                model, moved = self._shelf.wake(request.handle)
                result.woken_bytes, result.wake_seconds = moved.size_bytes, moved.seconds
            else:
                model = self._model(request, key)
            self._replicas[request.handle] = model
            result.ok = True
            result.signature.CopyFrom(convert.signature_to_proto(model.model.signature))
            result.memory_bytes = model.model.memory_bytes
        except DeviceLost:
            raise
        except Exception as failure:
            # Whatever a tenant's files do to a library, the worker answers and lives on.
            result.error.CopyFrom(convert.error_to_proto(classify(failure, "loading")))
        finally:
            wipe(key)
        result.load_seconds = time.monotonic() - started_s
        self._send(worker_pb2.FromWorker(loaded=result))

    def _park(self, handle: int) -> None:
        replica = self._replicas.pop(handle, None)
        if replica is None:
            result = worker_pb2.ParkResult(handle=handle, reason="nothing is loaded under its handle")
        else:
            result = self._shelf.park(handle, replica)
            del replica
            if not result.kept:
                self._give_back()
        self._send(worker_pb2.FromWorker(parked=result))

    def _give_back(self) -> None:
        """What was unloaded is free for other processes, not only for this one's next load."""
        if self._device_kind is DeviceKind.GPU and self._memory is not None and "torch" in sys.modules:
            self._memory().release()

    def _model(self, request: worker_pb2.LoadReplica, key: bytearray) -> Replica:
        manifest: models_pb2.Manifest = request.manifest
        engine = engines.create(manifest.engine, self._modules, self._device_kind, self._memory)
        with open_artifact(request, key) as artifact:
            model = engine.load(artifact, dict(manifest.options), manifest.max_batch)
        return Replica(model, request.model, str(request.version))

    def _send(self, message: worker_pb2.FromWorker) -> None:
        self._socket.sendall(frames.encode(message.SerializeToString()))
