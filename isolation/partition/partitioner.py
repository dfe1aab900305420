"""The seam to an enforced share of a device: what a worker must be given, and whether it got it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from partywall.domain.fleet import Partition


@dataclass(frozen=True, slots=True)
class WorkerConfinement:
    """What a worker takes on after the fork and before it touches CUDA or starts a thread.

    Attributes:
        cores: Affinity mask; empty: leave it as it is.
        threads: Threads of the numeric libraries; 0: leave it to them.
        memory_bytes: Cap on host memory the worker may add; 0: none. (Device memory is capped by `environment`.)
        environment: Variables to set; an empty value means "remove it".
    """

    cores: tuple[int, ...] = ()
    threads: int = 0
    memory_bytes: int = 0
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Observation:
    """What a started worker saw of its own wall. None: it could not see it.

    Attributes:
        pid: The worker.
        cores: Its affinity mask.
        threads: Threads of the numeric libraries.
        memory_limit_bytes: Host memory it may add before it is refused.
        multiprocessors: SMs of the device as CUDA shows them.
        device_uuid: `GPU-...` or `MIG-...` it computes on.
        device_memory_bytes: Device memory that could be had in the allocation probe.
        probe_refused: Whether asking for more than the cap was refused.
    """

    pid: int
    cores: tuple[int, ...] | None = None
    threads: int | None = None
    memory_limit_bytes: int | None = None
    multiprocessors: int | None = None
    device_uuid: str | None = None
    device_memory_bytes: int | None = None
    probe_refused: bool | None = None


@dataclass(frozen=True, slots=True)
class Attestation:
    """Whether the wall stands. Not `ok`: the worker gets no traffic, and `reasons` say why.

    `wall` is one line for people: what enforces the share, in terms they can check.
    """

    ok: bool
    wall: str
    reasons: tuple[str, ...] = ()


class Partitioner(Protocol):
    """One way to enforce shares. All verbs may block and are idempotent by the partition's id."""

    def prepare(self, partition: Partition) -> WorkerConfinement:
        """Makes the share exist and says what its workers must take on.

        Raises:
            InvalidInput: The partition is not one of this kind and device.
            NotReady: It cannot be made now (no room, in use).
        """
        ...

    def attest(self, partition: Partition, observed: Observation) -> Attestation:
        """Compares what a worker saw with what was given; changes nothing."""
        ...

    def before_kill(self, partition: Partition, pid: int) -> None:
        """What must happen before a worker of this partition may be sent a signal; best effort, never raises."""
        ...

    def release(self, partition: Partition) -> None:
        """Takes the share down again; unknown partitions are fine.

        Raises:
            NotReady: Somebody still holds it; the fields name the holders.
        """
        ...
