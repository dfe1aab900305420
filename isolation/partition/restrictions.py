"""What must not be done to a device: nothing new while it is fenced, no change at all where we only observe."""

from __future__ import annotations

from collections.abc import Callable

from isolation.devices.errors import DeviceForbidden, DeviceLost
from isolation.partition.mps_control import MpsForbidden
from partywall.domain.fleet import Partition, PartitionKind
from partywall.errors import NotReady, PartywallError, PermissionDenied, Reason

BY_ORDER = "started with --observe-only"


class Restrictions:
    """By device id, each with its reason."""

    def __init__(self) -> None:
        self._fences: dict[str, str] = {}
        self._observed: dict[str, str] = {}

    def fence(self, device_id: str, reason: str) -> None:
        self._fences[device_id] = reason

    def unfence(self, device_id: str) -> None:
        self._fences.pop(device_id, None)

    def fenced(self, device_id: str) -> str | None:
        return self._fences.get(device_id)

    def observe(self, device_id: str, reason: str) -> None:
        self._observed.setdefault(device_id, reason)

    def observed(self, device_id: str) -> str:
        """Why a device is only observed; empty: it is not."""
        return self._observed.get(device_id, "")

    def note(self, device_id: str, error: PartywallError) -> None:
        """Learns from what a device or its driver refused."""
        if isinstance(error, DeviceLost):
            self.fence(device_id, error.message)
        if isinstance(error, DeviceForbidden | MpsForbidden):
            self.observe(device_id, error.message)

    def check_fence(self, partition: Partition) -> None:
        """Raises `NotReady` on a fenced device."""
        if (why := self.fenced(partition.device_id)) is not None:
            raise NotReady(
                f"device {partition.device_id} is fenced: {why}",
                reason=Reason.WRONG_STATE,
                fields={"device": partition.device_id},
            )

    def check_change(self, partition: Partition, stands: Callable[[Partition], bool]) -> None:
        """Whether a partition may be prepared. A whole device and cores are used as they are; an instance may be used
        where it stands; an MPS daemon is not started.

        Raises:
            PermissionDenied: It would have to be made on a device that is only observed.
        """
        why = self.observed(partition.device_id)
        if why and (partition.kind is PartitionKind.MPS or not stands(partition)):
            raise PermissionDenied(
                f"partition {partition.id} would have to be made, and {partition.device_id} is only observed ({why}); "
                "use what stands there, or let an agent that may change it do it",
                fields={"partition": partition.id, "device": partition.device_id},
            )
