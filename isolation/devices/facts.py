"""What a driver tells of its GPUs: named by UUIDs and numbers, never by driver handles."""

from __future__ import annotations

import enum
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Gpu:
    """A physical GPU. `uuid` is its id everywhere; `index` may change across reboots and is only for people."""

    uuid: str
    index: int
    name: str
    memory_bytes: int
    multiprocessors: int
    compute_capability: tuple[int, int]
    mig_capable: bool


@dataclass(frozen=True, slots=True)
class MigMode:
    """Whether MIG is on now and after the next reset; different: a change is waiting."""

    current: bool
    pending: bool


class MigActivation(enum.Enum):
    """What became of a mode change: the call itself succeeded, this is the *activation status* it returned."""

    DONE = 0
    RESET_REQUIRED = 16
    IN_USE = 19


@dataclass(frozen=True, slots=True)
class MigProfile:
    """A GPU-instance profile. `enum` asks for it, `id` is what every later call takes: they differ."""

    enum: int
    id: int
    name: str
    slices: int
    memory_slices: int
    memory_bytes: int
    multiprocessors: int
    max_instances: int
    media_extensions: bool = False


@dataclass(frozen=True, slots=True)
class MigPlacement:
    """Where an instance lies, in memory slices."""

    start: int
    size: int

    def overlaps(self, other: MigPlacement) -> bool:
        return self.start < other.start + other.size and other.start < self.start + self.size


@dataclass(frozen=True, slots=True)
class GpuInstance:
    """A GPU instance; it may stand without any compute instance, and then no MIG device shows it."""

    id: int
    profile_id: int
    placement: MigPlacement


@dataclass(frozen=True, slots=True)
class MigDevice:
    """A compute instance as a worker names it (`CUDA_VISIBLE_DEVICES=MIG-...`). Indices have holes."""

    uuid: str
    index: int
    gpu_instance: int
    compute_instance: int
    multiprocessors: int
    memory_bytes: int


class ProcessKind(enum.StrEnum):
    COMPUTE = "compute"
    MPS = "mps"


@dataclass(frozen=True, slots=True)
class GpuProcess:
    """A process with a context on the GPU. `used_bytes` is None where the driver does not say."""

    pid: int
    kind: ProcessKind
    used_bytes: int | None
    gpu_instance: int | None = None
    compute_instance: int | None = None


@dataclass(frozen=True, slots=True)
class MemoryUse:
    total_bytes: int
    used_bytes: int

    @property
    def free_bytes(self) -> int:
        return self.total_bytes - self.used_bytes


class ThrottleReason(enum.IntFlag):
    """Why clocks are held down (nvml.h, `nvmlClocksEventReasons`)."""

    NONE = 0
    SW_POWER_CAP = 0x04
    HW_SLOWDOWN = 0x08
    SW_THERMAL = 0x20
    HW_THERMAL = 0x40
    HW_POWER_BRAKE = 0x80


@dataclass(frozen=True, slots=True)
class Power:
    """Draw, cap and the clocks that follow: the channel that even MIG instances share."""

    draw_mw: int
    limit_mw: int
    sm_clock_mhz: int
    reasons: ThrottleReason


class Counter(enum.IntEnum):
    """GPM metrics, by their NVML number. Utilisations are percent, PCIe is MiB/s."""

    SM_UTILISATION = 2
    SM_OCCUPANCY = 3
    TENSOR_UTILISATION = 5
    DRAM_BANDWIDTH = 10
    PCIE_TX_MIB_S = 20
    PCIE_RX_MIB_S = 21


@dataclass(frozen=True, slots=True)
class CounterReading:
    """Counters over an interval; a counter the driver refused is absent."""

    interval_s: float
    values: dict[Counter, float]


class EventKind(enum.StrEnum):
    XID = "xid"
    MIG_CHANGED = "mig_changed"
    ECC_DOUBLE_BIT = "ecc_double_bit"
    ECC_SINGLE_BIT = "ecc_single_bit"


@dataclass(frozen=True, slots=True)
class DeviceEvent:
    """Something a GPU announced. `code` is the Xid, 0 for other kinds."""

    kind: EventKind
    gpu_uuid: str
    code: int = 0
    gpu_instance: int | None = None


MIN_COUNTER_INTERVAL_S = 0.1
"""GPM samples closer than this read noise (NVIDIA recommends at least 100 ms)."""
