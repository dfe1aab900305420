"""From a fork of the zygote to a walled worker. Nothing here returns to the zygote's stack."""

from __future__ import annotations

import importlib.util
import os
import resource
import signal
import socket
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from isolation import sandbox
from node_agent.arena import Arena
from node_agent.worker.attest import attest
from node_agent.worker.main import EXIT_WALLS, Worker
from partywall.domain.fleet import DeviceKind, Partition, PartitionKind
from partywall.errors import InternalError, PartywallError, Unsupported
from partywall.v1 import fleet_pb2, worker_pb2
from partywall.wire import convert

if TYPE_CHECKING:
    from node_agent.worker.device_memory import DeviceMemory

_ENVIRONMENT_PREFIXES = ("CUDA_", "NVIDIA_")


def become_worker(request: worker_pb2.SpawnWorker, descriptors: Sequence[int], zygote_pid: int) -> NoReturn:
    """Walls this process in and runs the worker's loop. Ends the process; never returns.

    Order: death signal, descriptors, environment, partition, sandbox, then the first message to the agent.
    """
    status = 1
    try:
        signal.signal(signal.SIGTERM, _leave)
        sandbox.LinuxKernel().set_parent_death_signal(signal.SIGKILL)
        if os.getppid() == zygote_pid:
            _close_all_but(descriptors)
            sock = socket.socket(fileno=descriptors[0])
            arenas = Arena(descriptors[1]), Arena(descriptors[2])
            status = _run(request, sock, arenas)
        else:
            status = 0
    except SystemExit as leaving:
        status = leaving.code if isinstance(leaving.code, int) else 0
    except BaseException:
        # The last chance to say anything: the agent's log gets it.
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        # The zygote's own exit handlers are not this process's business.
        os._exit(status)


def _run(request: worker_pb2.SpawnWorker, sock: socket.socket, arenas: tuple[Arena, Arena]) -> int:
    partition = convert.partition_from_proto(request.partition)
    device_kind = DeviceKind[fleet_pb2.DeviceKind.Name(request.device_kind).removeprefix("DEVICE_KIND_")]
    modules = tuple(request.modules)

    def memory() -> DeviceMemory:
        from node_agent.worker.device_memory import open_memory

        return open_memory(device_kind, partition)

    worker = Worker(sock, arenas[0], arenas[1], modules, device_kind, memory)
    try:
        _set_environment(dict(request.environment), device_kind)
        enter_partition(partition, device_kind)
        layers = sandbox.apply(_policy(request, device_kind), sandbox.LinuxKernel())
    except PartywallError as failure:
        worker.refuse(failure)
        return EXIT_WALLS
    return worker.serve(attest(partition, device_kind, layers))


def enter_partition(partition: Partition, device_kind: DeviceKind) -> None:
    """Takes this process's share of the CPU: its cores, as many threads, and a memory cap.

    The cap is RLIMIT_DATA over what the process has already: private writable memory, which is what a model takes.
    RLIMIT_AS would count CUDA's reservations of address space, so a GPU worker gets none here.

    Raises:
        Unsupported: The cores are not this machine's, or not the agent's to give.
    """
    if partition.kind is PartitionKind.CPUSET and not partition.cores:
        raise InternalError(f"partition {partition.id} is a cpuset without cores")
    if partition.cores:
        try:
            os.sched_setaffinity(0, partition.cores)
        except OSError as failure:
            raise Unsupported(
                f"partition {partition.id} wants the cores {list(partition.cores)}, which this agent may not use "
                f"({failure.strerror}); give the agent those cores or choose others",
                fields={"field": "partition.cores"},
            ) from failure
    set_threads(len(os.sched_getaffinity(0)))
    if partition.memory_bytes and device_kind is DeviceKind.CPU:
        cap = data_bytes() + partition.memory_bytes
        resource.setrlimit(resource.RLIMIT_DATA, (cap, cap))


def set_threads(count: int) -> None:
    """Threads of the numeric libraries that are already imported, and of those that come later."""
    os.environ["OMP_NUM_THREADS"] = str(count)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(count)


def data_bytes() -> int:
    """What RLIMIT_DATA counts for this process now."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmData:"):
            return int(line.split()[1]) << 10
    raise InternalError("/proc/self/status has no VmData line")


def _policy(request: worker_pb2.SpawnWorker, device_kind: DeviceKind) -> sandbox.SandboxPolicy:
    base = sandbox.system_policy(device_kind, os.environ)
    modules = [path for name in request.modules if (path := _module_path(name)) is not None]
    return sandbox.SandboxPolicy(
        read_paths=(*base.read_paths, *map(Path, request.sandbox.read_paths), *modules),
        write_paths=(*base.write_paths, *map(Path, request.sandbox.write_paths)),
        required=request.sandbox.required,
    )


def _module_path(name: str) -> Path | None:
    """Where a registered module lies: the file itself, or the folder of an importable one. None: it cannot be found,
    and loading from it says so."""
    if name.endswith(".py"):
        return Path(name).absolute()
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    return Path(spec.origin).parent if spec is not None and spec.origin is not None else None


def _set_environment(wanted: dict[str, str], device_kind: DeviceKind) -> None:
    for name in sorted(wanted):
        if not name.startswith(_ENVIRONMENT_PREFIXES):
            raise InternalError(f"environment variable {name} is not a worker's; only CUDA_* and NVIDIA_* are set")
    if device_kind is DeviceKind.CPU:
        # A CPU partition on a machine with a GPU sees no GPU.
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    for name, value in wanted.items():
        # Empty means "not behind that": a pipe directory of the parent's would put the worker behind another daemon.
        if value:
            os.environ[name] = value
        else:
            os.environ.pop(name, None)


def _close_all_but(descriptors: Sequence[int]) -> None:
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    keep = {0, 1, 2, *descriptors}
    for name in os.listdir("/proc/self/fd"):
        if (fd := int(name)) not in keep:
            try:
                os.close(fd)
            except OSError:
                # The listing's own descriptor is gone already.
                continue


def _leave(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(0)
