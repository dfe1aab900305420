"""What became of a desired state, and how it goes on past what fails."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from isolation.partition.partitioner import WorkerConfinement
from partywall.domain.fleet import Partition
from partywall.errors import PartywallError


@dataclass(frozen=True, slots=True)
class Reconciled:
    """What became of a desired state. `problems` are by partition (or device) id; the rest is reached."""

    confinements: Mapping[str, WorkerConfinement]
    released: tuple[str, ...]
    problems: Mapping[str, PartywallError]


@contextmanager
def noting(problems: dict[str, PartywallError], name: str) -> Iterator[None]:
    try:
        yield
    except PartywallError as error:
        problems[name] = error


class Verbs(Protocol):
    """What closing a gap needs of the account of a node's devices (`authority.DeviceAuthority`)."""

    def partitions(self) -> tuple[Partition, ...]: ...

    def prepare(self, partition: Partition) -> WorkerConfinement: ...

    def release(self, partition_id: str) -> None: ...

    def layout_changed(self, device_id: str) -> tuple[str, ...]: ...


def reconcile(authority: Verbs, devices: Iterable[str], desired: Sequence[Partition]) -> Reconciled:
    """Closes the gap between what stands and what shall stand; goes on past what fails. Idempotent."""
    wanted = {partition.id: partition for partition in desired}
    confinements: dict[str, WorkerConfinement] = {}
    released: list[str] = []
    problems: dict[str, PartywallError] = {}
    for device_id in devices:
        with noting(problems, device_id):
            authority.layout_changed(device_id)
    standing = {p.id: p for p in authority.partitions() if wanted.get(p.id) == p}
    # What stays comes first, so that nobody takes a shared daemon down for want of a known user.
    for partition in standing.values():
        with noting(problems, partition.id):
            confinements[partition.id] = authority.prepare(partition)
    for partition_id in {p.id for p in authority.partitions()} - standing.keys():
        with noting(problems, partition_id):
            authority.release(partition_id)
            released.append(partition_id)
    for partition in (p for p in wanted.values() if p.id not in standing):
        with noting(problems, partition.id):
            confinements[partition.id] = authority.prepare(partition)
    return Reconciled(confinements, tuple(sorted(released)), problems)
