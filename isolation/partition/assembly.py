"""Puts a node's authority together: every way its devices can be shared, over one driver and one folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from isolation.devices.errors import DeviceError
from isolation.devices.library import GpuLibrary
from isolation.partition.authority import DeviceAuthority, Partitioners
from isolation.partition.cpuset import CpusetPartitioner
from isolation.partition.journal import Journal
from isolation.partition.mig import MigPartitioner
from isolation.partition.mps import MpsPartitioner
from isolation.partition.mps_control import MpsControl
from isolation.partition.mps_daemon import NvidiaMpsControl
from isolation.partition.partitioner import Partitioner
from isolation.partition.whole import WholePartitioner
from partywall.domain.fleet import Device, DeviceKind, Instance, PartitionKind

JOURNAL = "partitions.json"
MPS_BINARY = "nvidia-cuda-mps-control"
MpsOf = Callable[[str, Path], MpsControl]
"""The control of one GPU's daemon, by the GPU's UUID and a folder for its sockets."""


def node_authority(
    devices: Sequence[Device],
    library: GpuLibrary | None,
    directory: Path,
    run_directory: Path | None = None,
    time_shared: bool = False,
    mps: MpsOf | None = None,
) -> DeviceAuthority:
    """The authority of this node.

    Args:
        devices: What `inventory` found.
        library: The driver; None: no GPU is shared.
        directory: Keeps the journal; must exist and survive restarts.
        run_directory: Holds the MPS sockets, so its path must be short; None: `directory`.
        time_shared: Whether a core may be in several cpusets, and a whole device be given out twice.
        mps: Makes the control of a GPU's daemon over a folder for its sockets; None: the driver's own daemon.

    Raises:
        DataLoss: The journal cannot be read.
        InvalidInput: `run_directory` is too long for a socket.
    """
    journal = Journal(directory / JOURNAL)
    partitioners: dict[tuple[str, PartitionKind], Partitioner] = {}
    for number, device in enumerate(devices):
        partitioners[device.id, PartitionKind.WHOLE] = WholePartitioner(device)
        if device.kind is DeviceKind.CPU:
            partitioners[device.id, PartitionKind.CPUSET] = CpusetPartitioner(device)
        elif library is not None:
            sockets = (run_directory or directory) / f"mps{number}"
            control = mps(device.id, sockets) if mps is not None else NvidiaMpsControl(device.id, sockets)
            partitioners[device.id, PartitionKind.MPS] = MpsPartitioner(device, control, library)
            partitioners |= _mig(device, library, journal)
    return DeviceAuthority(devices, partitioners, journal, time_shared)


def _mig(device: Device, library: GpuLibrary, journal: Journal) -> Partitioners:
    capable = any(gpu.uuid == device.id and gpu.mig_capable for gpu in library.gpus())
    return {(device.id, PartitionKind.MIG): MigPartitioner(device, library, journal)} if capable else {}


def offered_kinds(
    device: Device, library: GpuLibrary | None, mps: bool | None = None, observed: bool = False
) -> tuple[PartitionKind, ...]:
    """The kinds of partitions that can be made on a device now.

    A GPU with MIG on takes nothing else: CUDA sees no whole GPU there. Turning MIG on is the operator's decision.

    Args:
        device: The device.
        library: The driver; None: no GPU is shared.
        mps: Whether there is an MPS daemon to start; None: look for the driver's.
        observed: Whether we only observe the device: then no daemon is started.
    """
    if device.kind is DeviceKind.CPU:
        return (PartitionKind.WHOLE, PartitionKind.CPUSET)
    if library is None:
        return (PartitionKind.WHOLE,)
    try:
        if library.mig_mode(device.id).current:
            return (PartitionKind.MIG,)
    except DeviceError:
        pass  # no MIG here, or nobody can tell: the device is offered as the plain GPU that it then is
    if observed:
        return (PartitionKind.WHOLE,)
    has_mps = shutil.which(MPS_BINARY) is not None if mps is None else mps
    return (PartitionKind.WHOLE, PartitionKind.MPS) if has_mps else (PartitionKind.WHOLE,)


def standing_instances(device: Device, library: GpuLibrary | None) -> tuple[Instance, ...]:
    """The MIG instances of a GPU that a worker could use as they are: those with a compute instance."""
    if library is None or device.kind is not DeviceKind.GPU:
        return ()
    try:
        shown = {one.gpu_instance: one for one in library.mig_devices(device.id)}
        return tuple(
            Instance(one.profile_id, one.placement.start, shown[one.id].memory_bytes, shown[one.id].multiprocessors)
            for one in library.gpu_instances(device.id)
            if one.id in shown
        )
    except DeviceError:
        return ()  # no MIG here, or nobody can tell
