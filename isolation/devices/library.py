"""The seam to the GPU driver: domain verbs only, named by UUIDs and numbers, never by driver handles.

Two sides ship: `nvml.NvmlLibrary` over the driver and `simulated.SimulatedGpuLibrary`. Every verb may block for
milliseconds (call it from a thread), is safe to repeat unless it creates or destroys, and raises the errors of
`isolation.devices.errors` with the driver's code in them.
"""

from __future__ import annotations

from typing import Protocol

from isolation.devices.facts import (
    CounterReading,
    DeviceEvent,
    Gpu,
    GpuInstance,
    GpuProcess,
    MemoryUse,
    MigActivation,
    MigDevice,
    MigMode,
    MigPlacement,
    MigProfile,
    Power,
)


class CounterSession(Protocol):
    """Open counters of a GPU or of one GPU instance. It is a handle: while open, the instance cannot be destroyed."""

    def read(self) -> CounterReading:
        """Counters since the last read (or since opening).

        Raises:
            DeviceBadCall: Less than `MIN_COUNTER_INTERVAL_S` has passed.
            DeviceLost, DeviceGone: The device is.
        """
        ...

    def close(self) -> None:
        """Frees the handle; idempotent."""
        ...


class GpuLibrary(Protocol):
    """The driver. One instance per agent process; safe to use from several threads."""

    def gpus(self) -> tuple[Gpu, ...]:
        """All GPUs that answer, in index order. A lost GPU is still named, so that it can be fenced."""
        ...

    def memory(self, gpu_uuid: str) -> MemoryUse: ...

    def power(self, gpu_uuid: str) -> Power: ...

    def processes(self, gpu_uuid: str) -> tuple[GpuProcess, ...]:
        """Everything with a context on the GPU; a client of MPS has kind `mps`."""
        ...

    def open_counters(self, gpu_uuid: str, gpu_instance: int | None = None) -> CounterSession:
        """Raises `DeviceUnsupported` where GPM is missing (before Hopper)."""
        ...

    def mig_mode(self, gpu_uuid: str) -> MigMode:
        """Raises `DeviceUnsupported` where the GPU has no MIG."""
        ...

    def set_mig_mode(self, gpu_uuid: str, enabled: bool) -> MigActivation:
        """Asks for a mode. Only `DONE` means that it is so; handles and UUIDs of MIG devices are void after it."""
        ...

    def mig_profiles(self, gpu_uuid: str) -> tuple[MigProfile, ...]:
        """What can be made; some drivers list nothing while MIG is off."""
        ...

    def mig_placements(self, gpu_uuid: str, profile_id: int) -> tuple[MigPlacement, ...]:
        """All *legal* placements of a profile, occupied ones too."""
        ...

    def gpu_instances(self, gpu_uuid: str) -> tuple[GpuInstance, ...]:
        """Instances that stand, also those without a compute instance; empty while MIG is off."""
        ...

    def create_gpu_instance(self, gpu_uuid: str, profile_id: int, placement: MigPlacement) -> GpuInstance:
        """Raises `DeviceFull` where the placement is taken, `DeviceBadCall` where it is not legal."""
        ...

    def destroy_gpu_instance(self, gpu_uuid: str, gpu_instance: int) -> None:
        """Raises `DeviceInUse` with a compute instance inside, `DeviceGone` for a number that is not there."""
        ...

    def compute_instances(self, gpu_uuid: str, gpu_instance: int) -> tuple[int, ...]: ...

    def create_compute_instance(self, gpu_uuid: str, gpu_instance: int) -> int:
        """One compute instance over the whole GPU instance; returns its number."""
        ...

    def destroy_compute_instance(self, gpu_uuid: str, gpu_instance: int, compute_instance: int) -> None:
        """Raises `DeviceInUse` while a client or a leaked handle holds it."""
        ...

    def mig_devices(self, gpu_uuid: str) -> tuple[MigDevice, ...]:
        """One for each compute instance; indices are sparse."""
        ...

    def wait_event(self, timeout_s: float) -> DeviceEvent | None:
        """The next Xid, ECC or layout event of any GPU; None when the time is over. Blocks: give it a thread."""
        ...

    def close(self) -> None:
        """Lets the driver go; idempotent. No verb may be used afterwards."""
        ...
