"""Nodes, devices, partitions, replicas."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import datetime

from partywall.domain.models import Signature


class DeviceKind(enum.StrEnum):
    CPU = "cpu"
    GPU = "gpu"


class PartitionKind(enum.StrEnum):
    WHOLE = "whole"
    MIG = "mig"
    MPS = "mps"
    CPUSET = "cpuset"


class ReplicaState(enum.StrEnum):
    STARTING = "starting"
    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"
    FAILED = "failed"
    STOPPED = "stopped"


class NodeState(enum.StrEnum):
    ONLINE = "online"
    OFFLINE = "offline"


@dataclass(frozen=True, slots=True)
class Instance:
    """A MIG instance that stands on a GPU: where it lies (profile id, first memory slice) and what it has."""

    profile_id: int
    start: int
    memory_bytes: int
    compute_units: int


@dataclass(frozen=True, slots=True)
class Device:
    """A GPU, or a machine's CPU as a device whose compute units are its cores.

    `kinds` are the partitions its agent enforces on it; empty is what every agent does: whole, and cpuset on a CPU.
    """

    id: str
    kind: DeviceKind
    name: str
    memory_bytes: int
    compute_units: int
    cores: tuple[int, ...] = ()
    kinds: tuple[PartitionKind, ...] = ()
    instances: tuple[Instance, ...] = ()
    """MIG instances that stand and can be used; made and destroyed by the operator."""
    fenced: str = ""
    """Why nothing new may be placed on it; empty: it may."""
    observed: str = ""
    """Why its agent changes nothing on it and only uses what stands; empty: it may change it."""


@dataclass(frozen=True, slots=True)
class Partition:
    """An enforced share of a device. `memory_bytes` 0: no cap. `cores` is empty unless the kind is cpuset."""

    id: str
    kind: PartitionKind
    device_id: str
    cores: tuple[int, ...] = ()
    share_percent: int = 100
    memory_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Node:
    """A machine with an agent. `incarnation` is new at each start of the agent."""

    name: str
    state: NodeState = NodeState.OFFLINE
    incarnation: str = ""
    devices: tuple[Device, ...] = ()
    last_seen_at: datetime | None = None
    version: str = ""
    rev: int = 0


@dataclass(frozen=True, slots=True)
class ReplicaStatus:
    """What an agent reports of one placement. A parked one is `STOPPED` with the host memory that its weights hold in
    `memory_bytes`; 0: they are gone, and `reason` says why."""

    placement_id: str
    state: ReplicaState
    reason: str = ""
    pid: int = 0
    memory_bytes: int = 0
    load_seconds: float = 0.0
    signature: Signature | None = None
    wall: str = ""
    restarts: int = 0
    permanent: bool = False
    wake_seconds: float = 0.0
    """What it takes to bring parked weights back onto their device, as the last time showed, or parking where there was
    none; 0.0 where nothing moves. `wake_bytes` is how much is copied."""
    wake_bytes: int = 0
