"""One contract for `GpuLibrary`, run against the simulator, against NVML over a simulated binding, and against a GPU
where there is one (then without anything that changes it)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from isolation.devices.errors import DeviceBadCall, DeviceFull, DeviceGone, DeviceInUse, NvmlCode
from isolation.devices.facts import MigActivation, MigPlacement
from isolation.devices.geometry import MigModel
from isolation.devices.inventory import inventory
from isolation.devices.library import GpuLibrary
from isolation.devices.nvml import NvmlLibrary, open_nvml
from isolation.devices.simulated import SimulatedGpuLibrary
from isolation.devices.simulated_gpu import SimulatedGpu
from isolation.devices.simulated_nvml import SimulatedNvml
from partywall.clock import Clock, SystemClock, VirtualClock
from partywall.domain.fleet import DeviceKind


@dataclass
class Side:
    library: GpuLibrary
    clock: Clock
    gpu: SimulatedGpu | None = None


def simulated() -> Side:
    clock = VirtualClock()
    gpu = SimulatedGpu(0, MigModel.H100_80, clock)
    return Side(SimulatedGpuLibrary([gpu], clock), clock, gpu)


def nvml_over_simulation() -> Side:
    clock = VirtualClock()
    gpu = SimulatedGpu(0, MigModel.H100_80, clock)
    return Side(NvmlLibrary(SimulatedNvml([gpu], clock), clock), clock, gpu)


def hardware() -> Side:
    library = open_nvml()
    assert library is not None
    return Side(library, SystemClock())


def has_gpu() -> bool:
    library = open_nvml()
    if library is None:
        return False
    try:
        return bool(library.gpus())
    finally:
        library.close()


CHANGEABLE: list[Callable[[], Side]] = [simulated, nvml_over_simulation]
SIDES = [*CHANGEABLE, *([pytest.param(hardware, marks=pytest.mark.gpu)] if has_gpu() else [])]


@pytest.fixture(params=SIDES)
def side(request: pytest.FixtureRequest) -> Iterator[Side]:
    made: Side = request.param()
    yield made
    made.library.close()


@pytest.fixture(params=CHANGEABLE)
def mig(request: pytest.FixtureRequest) -> Iterator[tuple[GpuLibrary, str, SimulatedGpu]]:
    made: Side = request.param()
    assert made.gpu is not None
    assert made.library.set_mig_mode(made.gpu.uuid, True) is MigActivation.DONE
    yield made.library, made.gpu.uuid, made.gpu
    made.library.close()


def test_gpus_have_plausible_facts(side: Side) -> None:
    for gpu in side.library.gpus():
        assert gpu.uuid.startswith("GPU-")
        assert gpu.multiprocessors > 0
        assert gpu.memory_bytes > 1 << 30


def test_inventory_lists_gpus_before_the_cpu(side: Side) -> None:
    devices = inventory(side.library)
    assert [d.kind for d in devices] == [DeviceKind.GPU] * len(side.library.gpus()) + [DeviceKind.CPU]


def test_an_unknown_uuid_is_gone(side: Side) -> None:
    with pytest.raises(DeviceGone) as caught:
        side.library.memory("GPU-00000000-0000-0000-0000-000000000000")
    assert caught.value.code == NvmlCode.NOT_FOUND


def test_memory_and_power_add_up(side: Side) -> None:
    uuid = side.library.gpus()[0].uuid
    memory = side.library.memory(uuid)
    assert memory.free_bytes + memory.used_bytes == memory.total_bytes
    power = side.library.power(uuid)
    assert power.draw_mw > 0
    assert power.sm_clock_mhz > 0


def test_no_event_is_none_in_time(side: Side) -> None:
    assert side.library.wait_event(0.05) is None


def test_counters_refuse_samples_that_are_too_close(side: Side) -> None:
    gpu = side.library.gpus()[0]
    if gpu.compute_capability < (9, 0):
        return
    counters = side.library.open_counters(gpu.uuid)
    with pytest.raises(DeviceBadCall):
        counters.read()
    counters.close()
    counters.close()


def test_mig_profiles_are_asked_by_enum_and_used_by_id(side: Side) -> None:
    gpu = side.library.gpus()[0]
    profiles = side.library.mig_profiles(gpu.uuid)
    assert all(p.multiprocessors <= gpu.multiprocessors for p in profiles)
    by_slices = {p.slices: p for p in profiles if not p.media_extensions and p.memory_slices}
    if 7 in by_slices:
        assert by_slices[7].id == 0
        assert by_slices[7].enum == 4


def test_an_instance_round_trips(mig: tuple[GpuLibrary, str, SimulatedGpu]) -> None:
    library, uuid, _ = mig
    made = library.create_gpu_instance(uuid, 9, MigPlacement(4, 4))
    assert library.gpu_instances(uuid) == (made,)
    assert library.mig_devices(uuid) == (), "no MIG device without a compute instance"
    compute = library.create_compute_instance(uuid, made.id)
    assert library.compute_instances(uuid, made.id) == (compute,)
    (device,) = library.mig_devices(uuid)
    assert device.uuid.startswith("MIG-")
    assert (device.gpu_instance, device.compute_instance, device.multiprocessors) == (made.id, compute, 60)
    with pytest.raises(DeviceInUse):
        library.destroy_gpu_instance(uuid, made.id)
    library.destroy_compute_instance(uuid, made.id, compute)
    library.destroy_gpu_instance(uuid, made.id)
    assert library.gpu_instances(uuid) == ()


def test_placements_are_all_legal_ones_and_overlap_is_full(mig: tuple[GpuLibrary, str, SimulatedGpu]) -> None:
    library, uuid, _ = mig
    library.create_gpu_instance(uuid, 14, MigPlacement(0, 2))
    assert library.mig_placements(uuid, 14) == (MigPlacement(0, 2), MigPlacement(2, 2), MigPlacement(4, 2))
    with pytest.raises(DeviceFull):
        library.create_gpu_instance(uuid, 5, MigPlacement(0, 4))


@pytest.mark.parametrize(("profile_id", "placement"), [(1, MigPlacement(0, 2)), (14, MigPlacement(1, 2))])
def test_an_enum_for_an_id_and_a_crooked_placement_are_defects(
    mig: tuple[GpuLibrary, str, SimulatedGpu], profile_id: int, placement: MigPlacement
) -> None:
    library, uuid, _ = mig
    with pytest.raises(DeviceBadCall):
        library.create_gpu_instance(uuid, profile_id, placement)


def test_mig_indices_keep_their_holes(mig: tuple[GpuLibrary, str, SimulatedGpu]) -> None:
    library, uuid, _ = mig
    made = [library.create_gpu_instance(uuid, 19, MigPlacement(start, 1)) for start in range(3)]
    computes = [library.create_compute_instance(uuid, instance.id) for instance in made]
    library.destroy_compute_instance(uuid, made[1].id, computes[1])
    assert [device.index for device in library.mig_devices(uuid)] == [0, 2]
    assert len(library.gpu_instances(uuid)) == 3


@pytest.mark.parametrize("holder", ["process", "leak", "counters"])
def test_a_held_instance_is_in_use(mig: tuple[GpuLibrary, str, SimulatedGpu], holder: str) -> None:
    library, uuid, gpu = mig
    instance = library.create_gpu_instance(uuid, 19, MigPlacement(0, 1))
    compute = library.create_compute_instance(uuid, instance.id)
    counters = library.open_counters(uuid, instance.id) if holder == "counters" else None
    if holder == "process":
        gpu.start_process(77, gpu_instance=instance.id, compute_instance=compute)
        assert library.processes(uuid)[0].gpu_instance == instance.id
    elif holder == "leak":
        gpu.leak_handle(instance.id)
        assert library.processes(uuid) == ()
    with pytest.raises(DeviceInUse) as caught:
        library.destroy_compute_instance(uuid, instance.id, compute)
    assert caught.value.code == NvmlCode.IN_USE
    gpu.end_process(77)
    gpu.free_leaks()
    if counters is not None:
        counters.close()
    library.destroy_compute_instance(uuid, instance.id, compute)
    assert library.compute_instances(uuid, instance.id) == ()


def test_a_number_that_is_not_there_is_gone(mig: tuple[GpuLibrary, str, SimulatedGpu]) -> None:
    library, uuid, _ = mig
    with pytest.raises(DeviceGone):
        library.destroy_gpu_instance(uuid, 5)
    with pytest.raises(DeviceGone):
        library.compute_instances(uuid, 5)
