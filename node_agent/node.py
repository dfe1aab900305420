"""The node as the agent finds it: devices, the authority over them, and who can see a worker's wall."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

import structlog

from isolation.devices.errors import DeviceError
from isolation.devices.inventory import inventory
from isolation.devices.library import GpuLibrary
from isolation.devices.nvml import open_nvml
from isolation.partition.assembly import node_authority, offered_kinds, standing_instances
from isolation.partition.authority import DeviceAuthority
from isolation.partition.restrictions import BY_ORDER
from isolation.partition.simulated_node import SimulatedNode
from node_agent.run_directory import run_directory
from node_agent.settings import AgentSettings
from node_agent.sight import KernelSight, Sight, SimulatedSight
from partywall.clock import Clock
from partywall.domain.fleet import Device, DeviceKind

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
        return _offers(device, self.library, self.simulated is not None, self.authority.observed(device.id))


def _offers(device: Device, library: GpuLibrary | None, simulated: bool, observed: str = "") -> Device:
    kinds = offered_kinds(device, library, True if simulated else None, bool(observed))
    return replace(device, kinds=kinds, instances=standing_instances(device, library), observed=observed)


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
    authority = node_authority(
        found,
        library,
        folder,
        run_directory(folder, os.environ),
        time_shared=True,
        mps=simulated.mps_of if simulated is not None else None,
    )
    for device in found:
        if settings.observe_only and device.kind is DeviceKind.GPU:
            authority.observe(device.id, BY_ORDER)
    devices = tuple(_offers(d, library, simulated is not None, authority.observed(d.id)) for d in found)
    sight: Sight = SimulatedSight(simulated, devices) if simulated is not None else KernelSight()
    return OpenNode(devices, authority, sight, library, simulated)


def _driver() -> GpuLibrary | None:
    try:
        return open_nvml()
    except DeviceError as error:
        log.warning("the GPU driver does not start; serving on the CPU alone", reason=error.message)
        return None
