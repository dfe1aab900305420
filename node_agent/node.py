"""The node as the agent finds it: devices, the authority over them, and who can see a worker's wall."""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import structlog

from isolation.devices.errors import DeviceError
from isolation.devices.inventory import inventory
from isolation.devices.library import GpuLibrary
from isolation.devices.nvml import open_nvml
from isolation.partition.assembly import node_authority, offered_kinds, standing_instances
from isolation.partition.authority import DeviceAuthority
from isolation.partition.simulated_node import SimulatedNode
from node_agent.settings import AgentSettings
from node_agent.sight import KernelSight, Sight, SimulatedSight
from partywall.clock import Clock
from partywall.domain.fleet import Device

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class OpenNode:
    """`library` is None without a GPU; `simulated` is there when the GPUs are."""

    devices: tuple[Device, ...]
    authority: DeviceAuthority
    sight: Sight
    library: GpuLibrary | None
    simulated: SimulatedNode | None = None

    def offers(self, device: Device) -> Device:
        """A device with the kinds and MIG instances it has to offer now."""
        return _offers(device, self.library, self.simulated is not None)


def _offers(device: Device, library: GpuLibrary | None, simulated: bool) -> Device:
    kinds = offered_kinds(device, library, True if simulated else None)
    return replace(device, kinds=kinds, instances=standing_instances(device, library))


def open_node(settings: AgentSettings, clock: Clock) -> OpenNode:
    """Looks at the machine and adopts what an earlier agent left on it.

    Raises:
        DataLoss: The journal of partitions cannot be read.
        InvalidInput: A simulated device is not known.
    """
    folder = settings.data_dir / "partitions"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    simulated = SimulatedNode(settings.simulate_devices, clock) if settings.simulate_devices else None
    library: GpuLibrary | None = simulated.library if simulated is not None else _driver()
    found = inventory(library, settings.cores)
    devices = tuple(_offers(d, library, simulated is not None) for d in found)
    authority = node_authority(
        devices,
        library,
        folder,
        _sockets(folder),
        time_shared=True,
        mps=simulated.mps_of if simulated is not None else None,
    )
    sight: Sight = SimulatedSight(simulated, devices) if simulated is not None else KernelSight()
    return OpenNode(devices, authority, sight, library, simulated)


def _driver() -> GpuLibrary | None:
    try:
        return open_nvml()
    except DeviceError as error:
        log.warning("the GPU driver does not start; serving on the CPU alone", reason=error.message)
        return None


def _sockets(folder: Path) -> Path:
    """A short path for the MPS sockets, the same for the same data directory: a socket's path has 108 bytes."""
    if len(str(folder)) < 60:
        return folder
    name = hashlib.sha256(str(folder).encode()).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"partywall-{name}"
