"""One contract for `MpsControl`: the simulated side, and the real side over a stand-in for NVIDIA's binary."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from isolation.devices.geometry import MigModel
from isolation.devices.simulated_gpu import SimulatedGpu
from isolation.partition.mps_control import MpsControl, MpsDown, MpsForbidden, MpsSlow, ServerState
from isolation.partition.mps_daemon import NvidiaMpsControl
from isolation.partition.mps_simulated import SimulatedMps
from partywall.clock import VirtualClock
from partywall.errors import InvalidInput, NotReady, Unsupported

STAND_IN = Path(__file__).with_name("mps_stand_in.py")


@dataclass
class Side:
    control: MpsControl
    join: Callable[[int], None]
    leave: Callable[[int], None]
    fault: Callable[[], None]


def simulated(tmp_path: Path) -> Side:
    gpu = SimulatedGpu(0, MigModel.H100_80, VirtualClock())
    mps = SimulatedMps(gpu, tmp_path / "pipe")
    environment = {"CUDA_MPS_PIPE_DIRECTORY": str(tmp_path / "pipe")}

    def join(pid: int) -> None:
        mps.cuda_process(pid, environment)

    def fault() -> None:
        mps.fault(mps.clients()[0])

    return Side(mps, join, mps.end_process, fault)


def nvidia(tmp_path: Path) -> Side:
    pipe = tmp_path / "pipe"

    def join(pid: int) -> None:
        (pipe / "server").write_text("4242")
        (pipe / "state").write_text("ACTIVE")
        (pipe / f"client_{pid}").touch()

    def leave(pid: int) -> None:
        (pipe / f"client_{pid}").unlink(missing_ok=True)
        if not list(pipe.glob("client_*")):
            (pipe / "state").write_text("ACTIVE")

    def fault() -> None:
        (pipe / "state").write_text("FAULT")

    return Side(real_control(tmp_path), join, leave, fault)


def real_control(directory: Path, static: bool = False, query_timeout_s: float = 30.0) -> NvidiaMpsControl:
    command = [sys.executable, str(STAND_IN)]
    return NvidiaMpsControl("GPU-1", directory, command, static, query_timeout_s=query_timeout_s)


@pytest.fixture(params=[simulated, nvidia])
def side(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Side]:
    made: Side = request.param(tmp_path)
    made.control.start()
    yield made
    made.control.stop()


def test_start_and_stop_can_be_repeated(side: Side) -> None:
    side.control.start()
    assert side.control.alive()
    side.control.stop()
    side.control.stop()
    assert not side.control.alive()
    with pytest.raises(MpsDown):
        side.control.clients()
    side.control.start()
    assert side.control.alive()


def test_the_server_comes_with_the_first_client(side: Side) -> None:
    assert side.control.server_pid() is None
    assert side.control.server_state() is ServerState.ABSENT
    assert side.control.clients() == ()
    side.join(7)
    assert side.control.server_pid() is not None
    assert side.control.server_state() is ServerState.ACTIVE
    assert side.control.clients() == (7,)


def test_a_terminated_client_is_no_client(side: Side) -> None:
    side.join(7)
    side.join(8)
    side.control.terminate_client(7)
    assert side.control.clients() == (8,)
    side.control.terminate_client(7)


def test_a_fault_shows_until_all_hit_clients_are_gone(side: Side) -> None:
    side.join(7)
    side.join(8)
    side.fault()
    assert side.control.server_state() is ServerState.FAULT
    side.leave(7)
    assert side.control.server_state() is ServerState.FAULT
    side.leave(8)
    assert side.control.server_state() is ServerState.ACTIVE


def test_without_static_partitioning_sm_sets_are_unsupported(side: Side) -> None:
    with pytest.raises(Unsupported):
        side.control.add_sm_partition(1)


def test_a_later_process_adopts_the_daemon_of_an_earlier_one(tmp_path: Path) -> None:
    first, second = real_control(tmp_path), real_control(tmp_path)
    first.start()
    pid = (tmp_path / "pipe/nvidia-cuda-mps-control.pid").read_text()
    second.start()
    assert (tmp_path / "pipe/nvidia-cuda-mps-control.pid").read_text() == pid
    second.stop()
    assert not first.alive(), "health is the process itself, not a memory of it"


def test_a_number_that_belongs_to_somebody_else_is_not_our_daemon(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    pipe.mkdir()
    (pipe / "nvidia-cuda-mps-control.pid").write_text(str(os.getpid()))
    control = real_control(tmp_path)
    control.start()
    assert (pipe / "nvidia-cuda-mps-control.pid").read_text() != str(os.getpid())
    control.stop()


def test_an_old_binary_has_no_static_partitions(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="active-thread percentage"):
        real_control(tmp_path, static=True).start()


def test_an_old_binary_whose_usage_is_no_error_has_none_either(tmp_path: Path) -> None:
    environment = {**os.environ, "STAND_IN_FRIENDLY": "1"}
    command = [sys.executable, str(STAND_IN)]
    control = NvidiaMpsControl("GPU-1", tmp_path, command, True, environment, query_timeout_s=0.2)
    with pytest.raises(Unsupported, match="active-thread percentage"):
        control.start()


def test_a_daemon_that_keeps_its_launchers_output_open_starts_all_the_same(tmp_path: Path) -> None:
    environment = {**os.environ, "STAND_IN_HOLDS": "1"}
    control = NvidiaMpsControl("GPU-1", tmp_path, [sys.executable, str(STAND_IN)], environment=environment)
    control.start()
    assert control.alive()
    control.stop()


def test_static_partitions_are_made_and_taken_down_by_name(tmp_path: Path) -> None:
    command = [sys.executable, str(STAND_IN)]
    environment = {**os.environ, "STAND_IN_STATIC": "1"}
    control = NvidiaMpsControl("GPU-1", tmp_path, command, True, environment, query_timeout_s=30.0)
    control.start()
    name = control.add_sm_partition(12)
    assert name.startswith("GPU-1/")
    with pytest.raises(NotReady, match="no partition of 8 chunks"):
        control.add_sm_partition(8)
    control.remove_sm_partition(name)
    assert control.add_sm_partition(8)
    control.stop()


def test_a_daemon_that_does_not_start_says_why(tmp_path: Path) -> None:
    environment = {**os.environ, "STAND_IN_BROKEN": "1"}
    control = NvidiaMpsControl("GPU-1", tmp_path, [sys.executable, str(STAND_IN)], environment=environment)
    with pytest.raises(MpsDown, match="Failed to start MPS control daemon"):
        control.start()
    assert not control.alive()


def test_a_daemon_that_this_user_may_not_start_is_told_apart(tmp_path: Path) -> None:
    environment = {**os.environ, "STAND_IN_FORBIDDEN": "1"}
    control = NvidiaMpsControl("GPU-1", tmp_path, [sys.executable, str(STAND_IN)], environment=environment)
    with pytest.raises(MpsForbidden, match="Permission denied"):
        control.start()


def test_a_machine_without_the_binary_says_so(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="is not on this machine"):
        NvidiaMpsControl("GPU-1", tmp_path, ["no-such-mps-control"]).start()


def test_a_directory_too_long_for_a_socket_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="too long for a socket"):
        NvidiaMpsControl("GPU-1", tmp_path / ("x" * 100))


def test_a_slow_answer_is_no_verdict_on_health(tmp_path: Path) -> None:
    patient, hasty = real_control(tmp_path), real_control(tmp_path, query_timeout_s=0.3)
    patient.start()
    hasty.start()
    (tmp_path / "pipe/hang").touch()
    with pytest.raises(MpsSlow):
        hasty.clients()
    assert hasty.alive()
    (tmp_path / "pipe/hang").unlink()
    patient.stop()


def test_the_real_channel_serves_many_threads_one_after_the_other(tmp_path: Path) -> None:
    control = real_control(tmp_path)
    control.start()
    (tmp_path / "pipe/server").write_text("4242")
    (tmp_path / "pipe/client_7").touch()
    answers: list[tuple[int, ...]] = []
    threads = [threading.Thread(target=lambda: answers.append(control.clients())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert answers == [(7,)] * 4
    control.stop()
