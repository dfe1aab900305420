"""Puts a node's authority together: every way its devices can be shared, over one driver and one folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from isolation.devices.library import GpuLibrary
from isolation.partition.authority import DeviceAuthority, Partitioners
from isolation.partition.cpuset import CpusetPartitioner
from isolation.partition.journal import Journal
from isolation.partition.mig import MigPartitioner
from isolation.partition.mps import MpsPartitioner
from isolation.partition.mps_control import NvidiaMpsControl
from isolation.partition.partitioner import Partitioner
from isolation.partition.whole import WholePartitioner
from partywall.domain.fleet import Device, DeviceKind, PartitionKind

JOURNAL = "partitions.json"


def node_authority(
    devices: Sequence[Device],
    library: GpuLibrary | None,
    directory: Path,
    run_directory: Path | None = None,
    share_cores: bool = False,
) -> DeviceAuthority:
    """The authority of this node.

    Args:
        devices: What `inventory` found.
        library: The driver; None: no GPU is shared.
        directory: Keeps the journal; must exist and survive restarts.
        run_directory: Holds the MPS sockets, so its path must be short; None: `directory`.
        share_cores: Whether a core may be in several cpusets.

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
            control = NvidiaMpsControl(device.id, sockets)
            partitioners[device.id, PartitionKind.MPS] = MpsPartitioner(device, control, library)
            partitioners |= _mig(device, library, journal)
    return DeviceAuthority(devices, partitioners, journal, share_cores)


def _mig(device: Device, library: GpuLibrary, journal: Journal) -> Partitioners:
    capable = any(gpu.uuid == device.id and gpu.mig_capable for gpu in library.gpus())
    return {(device.id, PartitionKind.MIG): MigPartitioner(device, library, journal)} if capable else {}
