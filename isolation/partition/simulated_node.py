"""A node with simulated GPUs: the agent's whole live path over them, on a machine that has none.

Workers are real processes that compute on the CPU; what they would see of a GPU, the simulated driver and MPS say.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from isolation.devices.facts import MigPlacement
from isolation.devices.geometry import MigModel
from isolation.devices.simulated import SimulatedGpuLibrary
from isolation.devices.simulated_gpu import SimulatedGpu
from isolation.partition.mps_simulated import CudaError, SimulatedMps
from isolation.partition.partitioner import Observation
from partywall.clock import Clock
from partywall.domain.fleet import Partition, PartitionKind
from partywall.errors import InvalidInput, Unavailable

MIG_SUFFIX = "-mig"
"""A model by this ending has MIG on, with two instances of half the GPU."""
MODELS = {"a100-40": MigModel.A100_40, "a100-80": MigModel.A100_80, "h100": MigModel.H100_80, "h200": MigModel.H200}


_HALF = 9
"""Profile id of 3g."""


class SimulatedNode:
    """Simulated GPUs by model name, their driver and their MPS daemons.

    Raises:
        InvalidInput: A model that is not known.
    """

    def __init__(self, models: Sequence[str], clock: Clock) -> None:
        unknown = sorted({name for name in models if name.removesuffix(MIG_SUFFIX) not in MODELS})
        if unknown:
            raise InvalidInput(
                f"simulated device {unknown[0]!r} is not known; use {', '.join(MODELS)}",
                fields={"field": "simulate_devices"},
            )
        names = [name.removesuffix(MIG_SUFFIX) for name in models]
        self.gpus = tuple(SimulatedGpu(number, MODELS[name], clock) for number, name in enumerate(names))
        self.library = SimulatedGpuLibrary(self.gpus, clock)
        for gpu, name in zip(self.gpus, models, strict=True):
            if name.endswith(MIG_SUFFIX):
                self._halve(gpu)
        self.mps: dict[str, SimulatedMps] = {}

    def _halve(self, gpu: SimulatedGpu) -> None:
        """What an operator does with nvidia-smi: MIG on, two 3g instances."""
        self.library.set_mig_mode(gpu.uuid, True)
        for start in (0, 4):
            made = self.library.create_gpu_instance(gpu.uuid, _HALF, MigPlacement(start, 4))
            self.library.create_compute_instance(gpu.uuid, made.id)

    def mps_of(self, gpu_uuid: str, sockets: Path) -> SimulatedMps:
        """The daemon of one GPU; made once."""
        gpu = next(gpu for gpu in self.gpus if gpu.uuid == gpu_uuid)
        return self.mps.setdefault(gpu_uuid, SimulatedMps(gpu, sockets, uid=os.getuid()))

    def cuda_process(self, partition: Partition, pid: int, environment: Mapping[str, str]) -> Observation:
        """A process initialises CUDA behind this environment; what it sees.

        Raises:
            Unavailable: CUDA refuses it, as an MPS server in a fault does.
        """
        gpu = next(gpu for gpu in self.gpus if gpu.uuid == partition.device_id)
        if partition.kind is PartitionKind.MIG:
            return self._on_mig(gpu, pid, environment)
        control = self.mps[gpu.uuid]
        try:
            return control.cuda_process(pid, environment)
        except CudaError as error:
            raise Unavailable(f"CUDA refuses the worker: {error}; it is started again") from error

    def end_process(self, partition: Partition, pid: int) -> None:
        """A process is gone, in whatever way."""
        control = self.mps.get(partition.device_id)
        if control is not None:
            control.end_process(pid)

    def _on_mig(self, gpu: SimulatedGpu, pid: int, environment: Mapping[str, str]) -> Observation:
        wanted = environment.get("CUDA_VISIBLE_DEVICES", "")
        device = next((d for d in self.library.mig_devices(gpu.uuid) if d.uuid == wanted), None)
        if device is None:
            raise Unavailable(f"CUDA finds no MIG device {wanted!r}; the worker is started again")
        gpu.start_process(pid)
        return Observation(pid, multiprocessors=device.multiprocessors, device_uuid=device.uuid)
