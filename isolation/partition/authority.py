"""One account of a node's devices: nobody else makes, resizes or takes down partitions.

Rules: a partition is on disk before it is made and until it is gone; what was found is used and never destroyed;
work on one device is serialised, and so are worker starts (several at once misjudge each other's memory); a device
that fails is fenced until an operator clears it; a device that may not be changed is only observed: what stands on it
is used, nothing on it is made or destroyed.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager

from isolation.partition.journal import Journal, Phase
from isolation.partition.ledger import Account, account, objection, resting
from isolation.partition.mig import MigPartitioner
from isolation.partition.mps import MpsPartitioner
from isolation.partition.partitioner import Attestation, Observation, Partitioner, WorkerConfinement
from isolation.partition.reconciled import Reconciled, reconcile
from isolation.partition.restrictions import Restrictions
from isolation.partition.turns import Turns
from partywall.domain.fleet import Device, Partition, PartitionKind
from partywall.errors import AlreadyExists, InvalidInput, NotFound, NotReady, PartywallError, Reason

Partitioners = Mapping[tuple[str, PartitionKind], Partitioner]
"""By device id and kind of partition."""
_START_TURN_S = 120.0


class DeviceAuthority:
    """Owns the partitions of one node. Verbs may block; safe from several threads.

    Args:
        devices: The node's inventory.
        partitioners: Who makes which kind on which device.
        journal: What an earlier process left behind is adopted: it stands, and is accounted for, at once.
        time_shared: Whether a core may be in several cpusets, and a whole device be given out twice.
    """

    def __init__(
        self, devices: Sequence[Device], partitioners: Partitioners, journal: Journal, time_shared: bool = False
    ) -> None:
        self._devices = {device.id: device for device in devices}
        self._partitioners = dict(partitioners)
        self._journal = journal
        self._time_shared = time_shared
        self._locks = {device.id: threading.RLock() for device in devices}
        self._turns = Turns(self._devices)
        self._restrictions = Restrictions()
        self._resting: set[str] = set()

    def partitions(self, device_id: str | None = None) -> tuple[Partition, ...]:
        """Everything that is given out, in whatever phase."""
        entries = self._journal.entries.values()
        return tuple(e.partition for e in entries if device_id in (None, e.partition.device_id))

    def account(self, device_id: str) -> Account:
        """What is given out of a device."""
        return account(self._taken(device_id))

    def observe(self, device_id: str, reason: str) -> None:
        """From now on what stands on the device is used, and nothing on it is made or destroyed."""
        self._restrictions.observe(self._device(device_id).id, reason)

    def observed(self, device_id: str) -> str:
        """Why a device is only observed, by order or because the driver refused us a change; empty: it is not."""
        return self._restrictions.observed(device_id)

    def fence(self, device_id: str, reason: str) -> None:
        """No new partition on this device until `unfence`; what stands stays accounted for."""
        self._restrictions.fence(self._device(device_id).id, reason)

    def unfence(self, device_id: str) -> None:
        self._restrictions.unfence(device_id)

    def fenced(self, device_id: str) -> str | None:
        """Why the device takes nothing new; None: it does."""
        return self._restrictions.fenced(device_id)

    def prepare(self, partition: Partition, leaving: Collection[str] = ()) -> WorkerConfinement:
        """Makes a partition, or finds it standing. It may overlap with those of `leaving`, which it takes over from.

        Raises:
            AlreadyExists: The id is taken by a different partition.
            NotReady: No room, the device is fenced, or it cannot be made now.
            PermissionDenied: It would have to be made and we may not.
        """
        with self._lock(partition.device_id):
            known = self._journal.entries.get(partition.id)
            if known is not None and known.partition != partition:
                raise AlreadyExists(
                    f"partition {partition.id} stands as something else; a resize takes a new id",
                    fields={"partition": partition.id},
                )
            self._restrictions.check_fence(partition)
            self._restrictions.check_change(partition, self._stands)
            if known is None:
                self._check_room(partition, leaving)
            return self._make(partition, fresh=known is None)

    def attest(self, partition: Partition, observed: Observation) -> Attestation:
        """Whether a worker of this partition stands behind its wall.

        Raises:
            NotFound: The partition was not given out here.
        """
        if partition.id not in self._journal.entries:
            raise NotFound(
                f"partition {partition.id} was not prepared on this node", fields={"partition": partition.id}
            )
        return self._partitioner(partition).attest(partition, observed)

    def clients(self, partition: Partition) -> tuple[int, ...] | None:
        """Pids behind the MPS daemon of the partition's device; None where there is none, or nobody can tell."""
        partitioner = self._partitioner(partition)
        return partitioner.clients() if isinstance(partitioner, MpsPartitioner) else None

    def mps_faulty(self, device_id: str) -> bool:
        """Whether the device's MPS server says that it is in a fault; False where there is none or it is silent."""
        partitioner = self._partitioners.get((device_id, PartitionKind.MPS))
        shared = any(p.kind is PartitionKind.MPS for p in self.partitions(device_id))
        return shared and isinstance(partitioner, MpsPartitioner) and partitioner.faulty()

    def before_kill(self, partition: Partition, pid: int) -> None:
        """To be called before a worker of this partition is sent a signal."""
        self._partitioner(partition).before_kill(partition, pid)

    def release(self, partition_id: str) -> None:
        """Takes a partition down; an id that is not there is fine.

        Raises:
            NotReady: Somebody holds it; it stays in the account, and another call tries again.
        """
        entry = self._journal.entries.get(partition_id)
        if entry is None:
            return
        partition = entry.partition
        with self._lock(partition.device_id):
            # What stands on a device that we only observe stays, ours or not; it is given out no longer.
            if not self.observed(partition.device_id) or partition.kind not in (PartitionKind.MIG, PartitionKind.MPS):
                self._journal.put(partition, Phase.RELEASING)
                try:
                    self._partitioner(partition).release(partition)
                except PartywallError as error:
                    self._restrictions.note(partition.device_id, error)
                    raise
            self._journal.remove(partition_id)
            self._resting.discard(partition_id)

    def rest(self, partition_id: str) -> None:
        """All weights in a partition are parked: what it had is free for others until `rouse`. Unknown ids are fine."""
        entry = self._journal.entries.get(partition_id)
        if entry is not None:
            with self._lock(entry.partition.device_id):
                self._resting.add(partition_id)

    def rouse(self, partition_id: str) -> None:
        """Gives a resting partition back what it had; one that does not rest is fine.

        Raises:
            NotReady: Others have it by now.
        """
        entry = self._journal.entries.get(partition_id)
        if entry is None or partition_id not in self._resting:
            return
        with self._lock(entry.partition.device_id):
            self._check_room(entry.partition, (partition_id,))
            self._resting.discard(partition_id)

    def layout_changed(self, device_id: str) -> tuple[str, ...]:
        """A GPU's MIG layout may have been changed by somebody else; returns what of ours is gone."""
        partitioner = self._partitioners.get((device_id, PartitionKind.MIG))
        if not isinstance(partitioner, MigPartitioner):
            return ()
        with self._lock(device_id):
            return partitioner.forget_vanished()

    def reconcile(self, desired: Sequence[Partition]) -> Reconciled:
        """Closes the gap between what stands and what shall stand; goes on past what fails. Idempotent."""
        return reconcile(self, tuple(self._devices), desired)

    def starting(self, device_id: str, turn_s: float = _START_TURN_S) -> AbstractContextManager[None]:
        """A worker's turn to start on a device, from fork to attestation: one at a time.

        Raises:
            NotReady: The turn did not come in time.
        """
        return self._turns.take(self._device(device_id).id, turn_s)

    def _make(self, partition: Partition, fresh: bool) -> WorkerConfinement:
        self._journal.put(partition, Phase.PREPARING)
        try:
            confinement = self._partitioner(partition).prepare(partition)
        except PartywallError as error:
            self._restrictions.note(partition.device_id, error)
            if fresh:  # what stood before may have workers in it: a failed second look takes nothing down
                self._undo(partition)
            raise
        self._journal.put(partition, Phase.STANDING)
        return confinement

    def _undo(self, partition: Partition) -> None:
        # What could not be made may be half there. If it cannot be taken down either, it stays in the account as
        # being released, and the next reconcile tries again.
        self._journal.put(partition, Phase.RELEASING)
        try:
            self._partitioner(partition).release(partition)
        except PartywallError as error:
            self._restrictions.note(partition.device_id, error)
            return
        self._journal.remove(partition.id)

    def _stands(self, partition: Partition) -> bool:
        """Whether using the partition changes nothing on its device."""
        partitioner = self._partitioner(partition)
        return not isinstance(partitioner, MigPartitioner) or partitioner.stands(partition)

    def _check_room(self, partition: Partition, leaving: Collection[str]) -> None:
        device = self._device(partition.device_id)
        reason = objection(device, self._taken(device.id), partition, self._time_shared, leaving)
        if reason is not None:
            raise NotReady(
                f"partition {partition.id} has no place on {partition.device_id}: {reason}",
                reason=Reason.NO_PLACE,
                fields={"partition": partition.id, "device": partition.device_id},
            )

    def _taken(self, device_id: str) -> list[Partition]:
        """What is given out of a device, resting partitions as they are reckoned."""
        return [resting(p) if p.id in self._resting else p for p in self.partitions(device_id)]

    def _partitioner(self, partition: Partition) -> Partitioner:
        found = self._partitioners.get((partition.device_id, partition.kind))
        if found is None:
            raise InvalidInput(
                f"partition {partition.id}: nothing on this node makes {partition.kind} on {partition.device_id}",
                fields={"field": "partition.kind", "partition": partition.id},
            )
        return found

    def _device(self, device_id: str) -> Device:
        if device_id not in self._devices:
            raise InvalidInput(
                f"device {device_id} is not on this node; it has {', '.join(self._devices)}",
                fields={"field": "partition.device_id"},
            )
        return self._devices[device_id]

    def _lock(self, device_id: str) -> threading.RLock:
        return self._locks[self._device(device_id).id]
