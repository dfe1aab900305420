"""Traps that the simulator must set, seen through both libraries where both can see them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from isolation.devices.errors import DeviceForbidden, DeviceGone, DeviceLost, DeviceUnsupported, NvmlCode, device_error
from isolation.devices.facts import (
    Counter,
    DeviceEvent,
    EventKind,
    MigActivation,
    MigMode,
    MigPlacement,
    ProcessKind,
    ThrottleReason,
)
from isolation.devices.geometry import MigModel
from isolation.devices.library import GpuLibrary
from isolation.devices.nvml import NvmlLibrary
from isolation.devices.simulated import SimulatedGpuLibrary
from isolation.devices.simulated_gpu import SimulatedGpu
from isolation.devices.simulated_nvml import SimulatedNvml
from isolation.devices.simulated_traits import GpuTraits
from partywall.clock import VirtualClock

GIB = 1 << 30
Make = Callable[[SimulatedGpu, VirtualClock], GpuLibrary]


def direct(gpu: SimulatedGpu, clock: VirtualClock) -> GpuLibrary:
    return SimulatedGpuLibrary([gpu], clock)


def through_nvml(gpu: SimulatedGpu, clock: VirtualClock) -> GpuLibrary:
    return NvmlLibrary(SimulatedNvml([gpu], clock), clock)


both = pytest.mark.parametrize("make", [direct, through_nvml])


def gpu_and_clock(model: MigModel = MigModel.H100_80, **traits: object) -> tuple[SimulatedGpu, VirtualClock]:
    clock = VirtualClock()
    return SimulatedGpu(0, model, clock, GpuTraits(**traits)), clock  # type: ignore[arg-type]


@both
def test_a_mode_change_on_a_busy_gpu_is_only_pending(make: Make) -> None:
    gpu, clock = gpu_and_clock()
    library = make(gpu, clock)
    gpu.start_process(1, GIB)
    assert library.set_mig_mode(gpu.uuid, True) is MigActivation.IN_USE
    assert library.mig_mode(gpu.uuid) == MigMode(current=False, pending=True)
    gpu.end_process(1)
    assert library.set_mig_mode(gpu.uuid, True) is MigActivation.DONE
    assert library.mig_mode(gpu.uuid) == MigMode(current=True, pending=True)


@both
def test_in_a_virtual_machine_a_mode_change_waits_for_the_operators_reset(make: Make) -> None:
    gpu, clock = gpu_and_clock(needs_reset=True)
    library = make(gpu, clock)
    assert library.set_mig_mode(gpu.uuid, True) is MigActivation.RESET_REQUIRED
    assert not library.mig_mode(gpu.uuid).current
    gpu.reset()
    assert library.mig_mode(gpu.uuid).current


@both
def test_a_card_without_mig_says_so(make: Make) -> None:
    gpu, clock = gpu_and_clock(mig_capable=False)
    library = make(gpu, clock)
    assert not library.gpus()[0].mig_capable
    assert library.mig_profiles(gpu.uuid) == ()
    with pytest.raises(DeviceUnsupported):
        library.mig_mode(gpu.uuid)


@both
def test_an_old_driver_lists_no_profiles_while_mig_is_off(make: Make) -> None:
    gpu, clock = gpu_and_clock(lists_profiles_while_off=False)
    library = make(gpu, clock)
    assert library.mig_profiles(gpu.uuid) == ()
    library.set_mig_mode(gpu.uuid, True)
    assert len(library.mig_profiles(gpu.uuid)) == 7


@both
def test_instances_cannot_be_made_while_mig_is_off(make: Make) -> None:
    gpu, clock = gpu_and_clock()
    library = make(gpu, clock)
    assert library.gpu_instances(gpu.uuid) == ()
    with pytest.raises(DeviceUnsupported):
        library.create_gpu_instance(gpu.uuid, 19, MigPlacement(0, 1))


@both
def test_a_lost_gpu_answers_with_its_code_after_announcing_the_xid(make: Make) -> None:
    gpu, clock = gpu_and_clock()
    library = make(gpu, clock)
    assert library.wait_event(0) is None
    before = library.gpus()
    gpu.raise_xid(79)
    assert library.wait_event(1) == DeviceEvent(EventKind.XID, gpu.uuid, 79)
    with pytest.raises(DeviceLost) as caught:
        library.memory(gpu.uuid)
    assert caught.value.code == NvmlCode.GPU_IS_LOST
    assert library.gpus() == before, "a lost GPU is still named, so that it can be fenced"
    gpu.reset()
    assert library.memory(gpu.uuid).total_bytes == 80 * GIB


@both
def test_a_foreign_actor_is_noticed(make: Make) -> None:
    gpu, clock = gpu_and_clock()
    library, foreign = make(gpu, clock), SimulatedGpuLibrary([gpu], clock)
    library.set_mig_mode(gpu.uuid, True)
    assert library.wait_event(1) == DeviceEvent(EventKind.MIG_CHANGED, gpu.uuid)
    made = foreign.create_gpu_instance(gpu.uuid, 19, MigPlacement(3, 1))
    assert library.wait_event(1) == DeviceEvent(EventKind.MIG_CHANGED, gpu.uuid)
    assert library.gpu_instances(gpu.uuid) == (made,)
    foreign.destroy_gpu_instance(gpu.uuid, made.id)
    with pytest.raises(DeviceGone):
        library.create_compute_instance(gpu.uuid, made.id)


def test_numbers_are_given_out_again_so_a_remembered_one_lies() -> None:
    gpu, clock = gpu_and_clock()
    library = direct(gpu, clock)
    library.set_mig_mode(gpu.uuid, True)
    first = library.create_gpu_instance(gpu.uuid, 19, MigPlacement(0, 1))
    library.destroy_gpu_instance(gpu.uuid, first.id)
    second = library.create_gpu_instance(gpu.uuid, 14, MigPlacement(4, 2))
    assert second.id == first.id
    assert second != first


def test_handles_of_the_binding_die_with_a_mode_change() -> None:
    gpu, clock = gpu_and_clock()
    binding = SimulatedNvml([gpu], clock)
    binding.nvmlInit()
    handle = binding.nvmlDeviceGetHandleByUUID(gpu.uuid)
    assert binding.nvmlDeviceSetMigMode(handle, 1) == 0
    with pytest.raises(binding.NVMLError) as caught:
        binding.nvmlDeviceGetMigMode(handle)
    assert caught.value.value == NvmlCode.INVALID_ARGUMENT


def test_without_privileges_reads_work_and_changes_do_not() -> None:
    gpu, clock = gpu_and_clock()
    library = NvmlLibrary(SimulatedNvml([gpu], clock, privileged=False), clock)
    assert library.mig_mode(gpu.uuid) == MigMode(current=False, pending=False)
    with pytest.raises(DeviceForbidden):
        library.set_mig_mode(gpu.uuid, True)


def test_a_machine_without_a_driver_has_no_library() -> None:
    with pytest.raises(DeviceGone):
        NvmlLibrary(SimulatedNvml([], VirtualClock(), driver=False))


@both
def test_memory_runs_out_for_the_gpu_and_for_an_instance(make: Make) -> None:
    gpu, clock = gpu_and_clock()
    library = make(gpu, clock)
    gpu.start_process(1, 70 * GIB)
    with pytest.raises(MemoryError):
        gpu.start_process(2, 20 * GIB)
    assert [p.pid for p in library.processes(gpu.uuid)] == [1]
    assert library.memory(gpu.uuid).used_bytes >= 70 * GIB
    gpu.end_process(1)
    library.set_mig_mode(gpu.uuid, True)
    instance = library.create_gpu_instance(gpu.uuid, 19, MigPlacement(0, 1))
    gpu.start_process(3, 9 * GIB, gpu_instance=instance.id)
    assert not gpu.allocate(3, 2 * GIB)


@both
def test_processes_tell_mps_clients_apart(make: Make) -> None:
    gpu, clock = gpu_and_clock()
    library = make(gpu, clock)
    gpu.start_process(5, GIB, ProcessKind.MPS)
    gpu.start_process(4, GIB)
    assert [(p.pid, p.kind) for p in library.processes(gpu.uuid)] == [(4, ProcessKind.COMPUTE), (5, ProcessKind.MPS)]


@both
def test_counters_average_the_load_over_the_interval(make: Make) -> None:
    gpu, clock = gpu_and_clock()
    library = make(gpu, clock)
    gpu.start_process(1)
    counters = library.open_counters(gpu.uuid)
    clock.advance(1.0)
    gpu.set_load(1, {Counter.DRAM_BANDWIDTH: 80.0})
    clock.advance(1.0)
    reading = counters.read()
    assert reading.interval_s == pytest.approx(2.0)
    assert reading.values[Counter.DRAM_BANDWIDTH] == pytest.approx(40.0)
    assert reading.values[Counter.SM_UTILISATION] == 0.0
    clock.advance(0.5)
    assert counters.read().values[Counter.DRAM_BANDWIDTH] == pytest.approx(80.0)
    counters.close()


@both
def test_counters_of_an_instance_see_only_its_own_processes(make: Make) -> None:
    gpu, clock = gpu_and_clock()
    library = make(gpu, clock)
    library.set_mig_mode(gpu.uuid, True)
    mine = library.create_gpu_instance(gpu.uuid, 9, MigPlacement(0, 4))
    other = library.create_gpu_instance(gpu.uuid, 9, MigPlacement(4, 4))
    gpu.start_process(1, gpu_instance=mine.id)
    gpu.start_process(2, gpu_instance=other.id)
    counters = library.open_counters(gpu.uuid, mine.id)
    gpu.set_load(1, {Counter.SM_UTILISATION: 10.0})
    gpu.set_load(2, {Counter.SM_UTILISATION: 50.0})
    clock.advance(0.2)
    assert counters.read().values[Counter.SM_UTILISATION] == pytest.approx(10.0)
    counters.close()


@both
def test_ampere_has_no_counters(make: Make) -> None:
    gpu, clock = gpu_and_clock(MigModel.A100_40)
    with pytest.raises(DeviceUnsupported):
        make(gpu, clock).open_counters(gpu.uuid)


@both
def test_the_power_cap_pulls_clocks_down_for_everyone(make: Make) -> None:
    gpu, clock = gpu_and_clock(power_limit_mw=400_000)
    library = make(gpu, clock)
    idle = library.power(gpu.uuid)
    assert idle.reasons is ThrottleReason.NONE
    gpu.start_process(1)
    gpu.set_load(1, {Counter.SM_UTILISATION: 100.0})
    busy = library.power(gpu.uuid)
    assert busy.reasons is ThrottleReason.SW_POWER_CAP
    assert busy.draw_mw == 400_000
    assert busy.sm_clock_mhz < idle.sm_clock_mhz


def test_uuids_repeat_from_run_to_run() -> None:
    assert gpu_and_clock()[0].uuid == gpu_and_clock()[0].uuid


@pytest.mark.parametrize("code", [1, 10, 20, 4711])
def test_a_code_nobody_planned_for_keeps_its_number(code: int) -> None:
    error = device_error(code, "memory", "GPU-x")
    assert error.code == code
    assert error.fields == {"code": str(code), "verb": "memory", "device": "GPU-x"}
