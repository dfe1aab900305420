"""The zygote as a process: forks, walls, deaths in every order."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from worker_support import ONE_CORE, is_gone, spawn, until, zygote

from isolation.sandbox import LinuxKernel, SandboxPolicy
from node_agent.work import Batch, WorkItem, describe_exit
from node_agent.zygote import preload
from node_agent.zygote.client import ZygoteClient
from node_agent.zygote.process import ZygoteOptions
from partywall.domain.fleet import DeviceKind, Partition, PartitionKind
from partywall.errors import InternalError, Reason, Unavailable, Unsupported
from partywall.v1 import models_pb2, worker_pb2

IDENTITY = models_pb2.Manifest(engine="identity")


def load_identity(handle: int = 1) -> worker_pb2.LoadReplica:
    return worker_pb2.LoadReplica(handle=handle, tenant_id="t", model="m", version=1, manifest=IDENTITY)


def environment_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/environ").read_bytes()


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def test_what_is_preloaded_is_single_threaded_and_without_grpc() -> None:
    script = (
        "import os, sys\n"
        "from node_agent.zygote import preload\n"
        "preload.limit_threads(os.environ)\n"
        "preload.import_all([*preload.ALWAYS, *preload.FRAMEWORKS, 'node_agent.zygote.server'])\n"
        "loaded = sorted(m for m in sys.modules if m == 'grpc' or m.startswith(('grpc.', 'grpc_')))\n"
        "print(preload.thread_count(), loaded, 'torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=240, check=True)
    assert done.stdout.split("\n")[-2] == "1 [] True"


async def test_a_worker_stands_in_its_partition_behind_its_walls(tmp_path: Path) -> None:
    async with zygote() as client:
        worker = await spawn(
            client, tmp_path, partition=Partition("p", PartitionKind.CPUSET, "cpu0", (0,), 50, 1 << 30)
        )
        status = status_of(worker.pid)
        assert status["Cpus_allowed_list"] == "0"
        assert status["NoNewPrivs"] == "1"
        assert status["PPid"] == str(client.pid)
        assert os.sched_getaffinity(worker.pid) == {0}
        assert resource.prlimit(worker.pid, resource.RLIMIT_CORE) == (0, 0)
        assert resource.prlimit(worker.pid, resource.RLIMIT_DATA)[1] >= 1 << 30
        assert worker.attested["cores"] == "0"
        assert worker.attested["threads"] == "1"
        assert worker.attested["sandbox.no_new_privs"] == "yes"
        abi = LinuxKernel().landlock_abi()
        assert worker.attested["sandbox.landlock"] == (f"abi {abi}" if abi else "no: this kernel has no Landlock")


async def test_an_operators_secrets_do_not_reach_the_workers() -> None:
    environment = {"PATH": os.environ["PATH"], "OPERATOR_SECRET": "s3cret", "CUDA_MODULE_LOADING": "LAZY"}
    async with zygote(environment=environment) as client:
        block = environment_of(client.pid)
        assert b"CUDA_MODULE_LOADING" in block
        assert b"s3cret" not in block


async def test_a_worker_keeps_only_its_own_descriptors() -> None:
    async with zygote() as client:
        first = await spawn(client, worker_id="w1")
        second = await spawn(client, worker_id="w2")
        for worker in (first, second):
            targets = [os.readlink(f"/proc/{worker.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{worker.pid}/fd")]
            assert sum(t.startswith("socket:") for t in targets) <= 1 + sum(
                os.readlink(f"/proc/self/fd/{fd}").startswith("socket:") for fd in (1, 2)
            )
            assert sum("partywall-" in t for t in targets) >= 2
            assert not any("pidfd" in t for t in targets)


async def test_eight_at_once() -> None:
    async with zygote() as client:
        workers = await asyncio.gather(*(spawn(client, worker_id=f"w{i}") for i in range(8)))
        assert len({w.pid for w in workers}) == 8
        assert set(client.workers) == {f"w{i}" for i in range(8)}


async def test_a_killed_worker_is_reported_and_its_neighbour_serves_on() -> None:
    async with zygote() as client:
        victim, neighbour = await spawn(client, worker_id="a"), await spawn(client, worker_id="b")
        await asyncio.gather(victim.load(load_identity()), neighbour.load(load_identity()))
        # Stopped first, so that the batch is certainly pending when it dies.
        os.kill(victim.pid, signal.SIGSTOP)
        pending = [victim.submit(Batch(1, [WorkItem(1, b"")])) for _ in range(2)]
        os.kill(victim.pid, signal.SIGKILL)
        for future in pending:
            with pytest.raises(Unavailable, match=r"closed its socket|SIGKILL") as lost:
                await asyncio.wait_for(future, 10)
            assert lost.value.reason is Reason.WORKER_DIED
        ended = await asyncio.wait_for(victim.closed, 10)
        assert (ended.code, ended.pid) == (-signal.SIGKILL, victim.pid)
        assert not victim.alive
        with pytest.raises(Unavailable):
            await victim.submit(Batch(1, []))
        with pytest.raises(Unavailable):
            await victim.load(load_identity(2))
        done = await neighbour.submit(Batch(1, [WorkItem(5, b"")]))
        assert [r.id for r in done.results] == [5]
        # The name is free again.
        assert (await spawn(client, worker_id="a")).pid != victim.pid


async def test_a_dead_zygote_takes_its_workers_and_comes_back() -> None:
    async with zygote() as client:
        worker = await spawn(client)
        first = client.pid
        os.kill(first, signal.SIGKILL)
        ended = await asyncio.wait_for(worker.closed, 10)
        assert "zygote ended with status -9" in ended.message
        await until(lambda: is_gone(worker.pid), "the worker to die with its zygote")
        await until(lambda: client.pid not in (0, first), "a new zygote")
        again = await spawn(client)
        assert again.alive
        assert client.restarts == 1


AGENT = """
import asyncio, sys
from node_agent.zygote.client import ZygoteClient, ZygoteOptions
from partywall.domain.fleet import Partition, PartitionKind

async def main():
    client = ZygoteClient(ZygoteOptions(preload=()))
    workers = [await client.spawn(f"w{i}", Partition("p", PartitionKind.WHOLE, "cpu0")) for i in range(2)]
    print(client.pid, *(w.pid for w in workers), flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_when_the_agent_is_killed_nothing_is_left() -> None:
    agent = await asyncio.create_subprocess_exec(sys.executable, "-c", AGENT, stdout=subprocess.PIPE)
    assert agent.stdout is not None
    line = await asyncio.wait_for(agent.stdout.readline(), 30)
    pids = [int(pid) for pid in line.split()]
    assert len(pids) == 3
    agent.kill()
    await asyncio.wait_for(agent.wait(), 10)
    for pid in pids:
        await until(lambda pid=pid: is_gone(pid), f"process {pid} to die with its agent")  # type: ignore[misc]


@pytest.mark.parametrize(
    ("partition", "error", "text"),
    [
        (Partition("p", PartitionKind.CPUSET, "cpu0", (4095,)), Unsupported, r"wants the cores \[4095\]"),
        (Partition("p", PartitionKind.CPUSET, "cpu0"), InternalError, "without cores"),
    ],
)
async def test_a_partition_that_cannot_be_had(partition: Partition, error: type[Exception], text: str) -> None:
    async with zygote() as client:
        with pytest.raises(error, match=text):
            await spawn(client, partition=partition)
        assert not client.workers
        assert (await spawn(client)).alive


async def test_only_cuda_variables_are_set() -> None:
    async with zygote() as client:
        with pytest.raises(InternalError, match="LD_PRELOAD"):
            await spawn(client, environment={"LD_PRELOAD": "/x.so"})
        worker = await spawn(client, environment={"CUDA_VISIBLE_DEVICES": "3"}, device_kind=DeviceKind.GPU)
        assert worker.attested["cuda_devices"] == "3"


async def test_a_required_sandbox_stands_or_refuses() -> None:
    async with zygote() as client:
        policy = SandboxPolicy(required=True)
        if LinuxKernel().landlock_abi():
            assert (await spawn(client, sandbox=policy)).alive
        else:
            with pytest.raises(Unsupported, match="landlock"):
                await spawn(client, sandbox=policy)


async def test_a_module_that_starts_a_thread_spoils_no_fork(tmp_path: Path) -> None:
    (tmp_path / "starts_a_thread.py").write_text(
        "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    async with zygote(("starts_a_thread",), environment=environment) as client:
        with pytest.raises(InternalError, match="2 threads and cannot fork"):
            await spawn(client)


async def test_a_zygote_that_cannot_import_says_so() -> None:
    client = ZygoteClient(ZygoteOptions(preload=("partywall_no_such_module",), environment={"PATH": "/bin"}))
    with pytest.raises(Unavailable, match="zygote ended with status 1"):
        await client.start()
    await client.close()


async def test_a_zygote_that_is_late_says_so() -> None:
    client = ZygoteClient(ZygoteOptions(preload=(), ready_timeout_s=0.001))
    with pytest.raises(Unavailable, match="not ready in 0 s"):
        await client.start()
    await client.close()
    assert client.pid == 0


async def test_two_workers_of_one_name_are_a_mistake() -> None:
    async with zygote() as client:
        await spawn(client)
        with pytest.raises(ValueError, match="w1 is alive"):
            await spawn(client)


async def test_close_ends_everything_and_may_be_repeated() -> None:
    client = ZygoteClient(ZygoteOptions(preload=()))
    client.launch()
    worker = await client.spawn("w", ONE_CORE)
    pids = [client.pid, worker.pid]
    await client.close()
    await client.close()
    assert all(is_gone(pid) for pid in pids)
    assert worker.closed.result().code == 0


@pytest.mark.parametrize(
    ("code", "text"),
    [(None, "without a status"), (0, "in order"), (3, "status 3"), (-9, "SIGKILL"), (-200, "signal 200")],
)
def test_exits_in_words(code: int | None, text: str) -> None:
    assert text in describe_exit(code)


def test_thread_limits_are_set_before_the_imports() -> None:
    environment: dict[str, str] = {}
    preload.limit_threads(environment)
    assert environment["OMP_NUM_THREADS"] == "1"
    assert environment["TOKENIZERS_PARALLELISM"] == "false"
