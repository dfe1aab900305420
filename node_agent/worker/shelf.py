"""Replicas that a worker keeps out of service: their weights wait in host memory of this process."""

from __future__ import annotations

from isolation.engine import Moved, Parkable
from node_agent.worker.batch import DeviceLost, Replica, classify, device_error
from partywall.domain.fleet import DeviceKind
from partywall.v1 import worker_pb2

MOST_LEFT_BYTES = 256 << 20
"""Device memory that a parked replica's process may go on holding beside its context: libraries' workspaces."""


class Shelf:
    """Parked replicas by handle."""

    def __init__(self, device_kind: DeviceKind) -> None:
        self._device_kind = device_kind
        self._parked: dict[int, Replica] = {}

    def __contains__(self, handle: int) -> bool:
        return handle in self._parked

    def park(self, handle: int, replica: Replica) -> worker_pb2.ParkResult:
        """Takes a replica in. `kept` false: it cannot be parked and is unloaded, with the reason.

        Raises:
            DeviceLost: The process is beyond help.
        """
        model, result = replica.model, worker_pb2.ParkResult(handle=handle)
        moved = Moved()
        if isinstance(model, Parkable):
            try:
                moved = model.park()
            except Exception as failure:
                result.reason = _reason(failure, "parking")
                return result
            if moved.size_bytes and moved.left_bytes > MOST_LEFT_BYTES:
                model.discard()
                left = f"{moved.left_bytes >> 20} MiB of its device memory stay behind"
                result.reason = f"{left}, and {MOST_LEFT_BYTES >> 20} MiB is what a parked version may hold"
                return result
        elif self._device_kind is DeviceKind.GPU:
            result.reason = f"{type(model).__name__.lstrip('_')} does not move its weights off a device"
            return result
        self._parked[handle] = replica
        result.kept, result.host_bytes = True, moved.size_bytes or model.memory_bytes
        result.moved_bytes, result.seconds = moved.size_bytes, moved.seconds
        result.pinned, result.device_bytes = moved.pinned, moved.left_bytes
        return result

    def wake(self, handle: int) -> tuple[Replica, Moved]:
        """Brings a replica back; one that cannot be brought back now stays where it is.

        Raises:
            KeyError: It is not here.
            DeviceLost: The process is beyond help.
            RuntimeError: The device has no room for it.
        """
        replica = self._parked[handle]
        moved = Moved()
        if isinstance(replica.model, Parkable):
            try:
                moved = replica.model.wake()
            except RuntimeError as failure:
                raise device_error(failure) from failure
        del self._parked[handle]
        return replica, moved

    def drop(self, handle: int) -> None:
        """Gives a replica's weights up; one that is not here is no error."""
        replica = self._parked.pop(handle, None)
        if replica is not None and isinstance(replica.model, Parkable):
            replica.model.discard()


def _reason(failure: Exception, subject: str) -> str:
    if isinstance(failure, RuntimeError) and isinstance(lost := device_error(failure), DeviceLost):
        raise lost from failure
    if isinstance(failure, MemoryError):
        return f"no host memory for its weights ({failure})" if str(failure) else "no host memory for its weights"
    return classify(failure, subject).message
