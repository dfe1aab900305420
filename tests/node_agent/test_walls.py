"""Workers behind the authority's walls: on this machine's CPU for real, on simulated GPUs behind simulated MPS."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from worker_support import until, writable_for_coverage, zygote

from isolation.partition.ledger import RESTING_BYTES
from isolation.partition.partitioner import Observation, WorkerConfinement
from isolation.sandbox import SandboxPolicy
from node_agent.node import OpenNode, open_node
from node_agent.settings import AgentSettings
from node_agent.wall_checks import compare
from node_agent.walls import Walls
from node_agent.workers import WorkerHandle
from node_agent.zygote.client import ZygoteClient
from partywall.clock import VirtualClock
from partywall.domain.fleet import Device, DeviceKind, Partition, PartitionKind
from partywall.errors import InvalidInput, NotReady, PartywallError, Unavailable, Unsupported

CORE = min(os.sched_getaffinity(0))


@pytest.fixture
async def forks() -> AsyncIterator[ZygoteClient]:
    async with zygote() as client:
        yield client


def opened(folder: Path, *gpus: str) -> OpenNode:
    settings = AgentSettings(folder, "n1", "127.0.0.1:1", simulate_devices=gpus)
    return open_node(settings, VirtualClock())


def walls(node: OpenNode, forks: ZygoteClient, folder: Path) -> Walls:
    async def start(worker_id: str, partition: Partition, confinement: WorkerConfinement) -> WorkerHandle:
        policy = SandboxPolicy(read_paths=(folder,), write_paths=writable_for_coverage())
        environment = {k: v for k, v in confinement.environment.items() if k.startswith("CUDA_")}
        return await forks.spawn(worker_id, partition, sandbox=policy, environment=environment)

    return Walls(node.devices, node.authority, start, node.sight, recheck_s=0.01)


@pytest.fixture
def h100(tmp_path: Path) -> OpenNode:
    return opened(tmp_path, "h100")


def share(node: OpenNode, name: str, percent: int, cap: int = 0) -> Partition:
    return Partition(name, PartitionKind.MPS, node.devices[0].id, (), percent, cap)


def cpuset(name: str = "p", memory: int = 0) -> Partition:
    return Partition(name, PartitionKind.CPUSET, "cpu", (CORE,), 50, memory)


async def test_a_cpu_wall_stands_is_read_again_and_is_missed_when_it_goes(tmp_path: Path, forks: ZygoteClient) -> None:
    kept = walls(opened(tmp_path), forks, tmp_path)
    kept.desired({"p": ""})
    worker = await kept.spawn("w1", cpuset(memory=1 << 30))
    assert f"cores {CORE} by affinity" in worker.attested["wall"]
    read = await kept.again("w1")
    assert read is not None
    assert read.attestation.ok
    assert {c.what for c in read.checks} == {"process", "affinity mask", "threads", "memory cap", "no new privileges"}
    assert all(c.ok for c in read.checks)
    if len(os.sched_getaffinity(0)) > 1:
        os.sched_setaffinity(worker.pid, os.sched_getaffinity(0))
        read = await kept.again("w1")
        assert read is not None
        assert not read.attestation.ok
        (wrong,) = [c for c in read.checks if not c.ok]
        assert (wrong.what, wrong.expected) == ("affinity mask", str(CORE))
    await worker.stop(5.0)
    assert await kept.again("w1") is None


async def test_shares_of_a_simulated_gpu_are_attested(h100: OpenNode, tmp_path: Path, forks: ZygoteClient) -> None:
    assert h100.devices[0].kinds == (PartitionKind.WHOLE, PartitionKind.MPS)
    kept = walls(h100, forks, tmp_path)
    kept.desired({"a": "", "b": ""})
    one, two = share(h100, "a", 25, 20 << 30), share(h100, "b", 75)
    first, second = await asyncio.gather(kept.spawn("w1", one), kept.spawn("w2", two))
    assert "32 of 132 SMs" in first.attested["wall"]
    assert "98 of 132 SMs" in second.attested["wall"]
    read = await kept.again("w1")
    assert read is not None
    assert [(c.what, c.ok) for c in read.checks] == [
        ("process", True),
        ("device", True),
        ("SM count", True),
        ("client list", True),
        ("memory cap", True),
        ("no new privileges", True),
    ]
    with pytest.raises(NotReady, match="110 %"):
        await kept.spawn("w3", share(h100, "c", 10))
    await first.stop(5.0)
    assert h100.simulated is not None
    assert h100.simulated.mps[h100.devices[0].id].clients() == (second.pid,)


async def test_a_worker_past_its_daemon_gets_no_traffic(h100: OpenNode, tmp_path: Path, forks: ZygoteClient) -> None:
    kept = walls(h100, forks, tmp_path)
    kept.desired({"a": "", "b": ""})
    worker = await kept.spawn("w1", share(h100, "a", 25))
    assert h100.simulated is not None
    control = h100.simulated.mps[h100.devices[0].id]
    start = control.start
    control.start = lambda: None  # type: ignore[method-assign] - the daemon dies between preparation and start
    control.crash()
    with pytest.raises(Unavailable, match="sees all 132 SMs instead of 66: it is not attached"):
        await kept.spawn("w2", share(h100, "b", 50))
    control.start = start  # type: ignore[method-assign]
    assert "w2" not in forks.workers
    await worker.stop(5.0)


async def test_a_daemon_that_is_slow_for_a_moment_costs_nobody_a_worker(
    h100: OpenNode, tmp_path: Path, forks: ZygoteClient
) -> None:
    kept = walls(h100, forks, tmp_path)
    kept.desired({"a": ""})
    await kept.spawn("w1", share(h100, "a", 25))
    assert h100.simulated is not None
    control = h100.simulated.mps[h100.devices[0].id]
    with control.slow_query():
        read = await kept.again("w1")
    assert read is not None
    assert read.attestation.ok, "the driver's own list is asked where the daemon does not answer"


async def test_a_takeover_may_overlap_with_what_it_replaces(
    h100: OpenNode, tmp_path: Path, forks: ZygoteClient
) -> None:
    kept = walls(h100, forks, tmp_path)
    kept.desired({"a": "", "b": ""})
    old, _ = await asyncio.gather(kept.spawn("w1", share(h100, "a", 50)), kept.spawn("w2", share(h100, "b", 50)))
    with pytest.raises(NotReady):
        await kept.spawn("w3", share(h100, "c", 25))
    kept.desired({"a": "", "b": "", "c": "a"})
    await kept.spawn("w3", share(h100, "c", 25))
    kept.desired({"b": "", "c": ""})
    await old.stop(5.0)
    await until(lambda: {p.id for p in h100.authority.partitions()} == {"b", "c"}, "the old partition is released")
    assert h100.authority.account(h100.devices[0].id).share_percent == 75


async def test_a_mig_instance_that_stands_is_adopted_and_never_destroyed(tmp_path: Path, forks: ZygoteClient) -> None:
    node = opened(tmp_path, "h100-mig")
    gpu = node.devices[0]
    assert gpu.kinds == (PartitionKind.MIG,)
    assert [(i.profile_id, i.start) for i in gpu.instances] == [(9, 0), (9, 4)]
    kept = walls(node, forks, tmp_path)
    kept.desired({"p-mig-9-4": ""})
    worker = await kept.spawn("w1", Partition("p-mig-9-4", PartitionKind.MIG, gpu.id, (), 45))
    assert worker.attested["wall"].startswith("mig: MIG-")
    read = await kept.again("w1")
    assert read is not None
    assert read.attestation.ok
    kept.desired({})
    await worker.stop(5.0)
    await until(lambda: not node.authority.partitions(), "the partition is released")
    assert node.library is not None
    assert len(node.library.gpu_instances(gpu.id)) == 2


async def test_a_restarted_agent_adopts_what_is_wanted_and_releases_the_rest(
    tmp_path: Path, forks: ZygoteClient
) -> None:
    first = opened(tmp_path)
    first.authority.prepare(cpuset("kept"))
    first.authority.prepare(cpuset("left"))
    second = opened(tmp_path)
    kept = walls(second, forks, tmp_path)
    assert {p.id for p in second.authority.partitions()} == {"kept", "left"}
    kept.desired({"kept": ""})
    await until(lambda: {p.id for p in second.authority.partitions()} == {"kept"}, "what is left is released")
    await (await kept.spawn("w1", cpuset("kept"))).stop(5.0)


async def test_a_killed_worker_leaves_its_partition_standing_while_it_is_wanted(
    tmp_path: Path, forks: ZygoteClient
) -> None:
    node = opened(tmp_path)
    kept = walls(node, forks, tmp_path)
    kept.desired({"p": ""})
    worker = await kept.spawn("w1", cpuset())
    worker.kill(worker.pid, 9)
    await asyncio.wait_for(asyncio.shield(worker.closed), 10)
    await kept.spawn("w2", cpuset())
    assert [p.id for p in node.authority.partitions()] == ["p"]


@pytest.mark.parametrize(
    ("partition", "error"),
    [
        (Partition("p", PartitionKind.MPS, "cpu"), PartywallError),
        (Partition("p", PartitionKind.WHOLE, "GPU-none"), Unsupported),
        (Partition("p", PartitionKind.CPUSET, "cpu", (4096,)), InvalidInput),
    ],
)
async def test_what_this_node_does_not_make(
    tmp_path: Path, forks: ZygoteClient, partition: Partition, error: type[Exception]
) -> None:
    with pytest.raises(error):
        await walls(opened(tmp_path), forks, tmp_path).spawn("w1", partition)


def test_unknown_simulated_devices(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="use a100-40"):
        opened(tmp_path, "b300")


CPU = Device("cpu", DeviceKind.CPU, "CPU", 1 << 34, 2, (0, 1))
GPU = Device("GPU-1", DeviceKind.GPU, "H100", 80 << 30, 132)
SEEN = Observation(7, (0,), 1, 1 << 29, 32, "GPU-1", None, True)


@pytest.mark.parametrize(
    ("device", "partition", "seen", "wrong"),
    [
        (CPU, Partition("p", PartitionKind.CPUSET, "cpu", (0,), 50, 1 << 29), SEEN, []),
        (CPU, Partition("p", PartitionKind.WHOLE, "cpu"), SEEN, ["affinity mask"]),
        (CPU, Partition("p", PartitionKind.CPUSET, "cpu", (0,), 50, 1 << 28), SEEN, ["memory cap"]),
        (CPU, Partition("p", PartitionKind.CPUSET, "cpu", (0,), 50), replace(SEEN, threads=4), ["threads"]),
        (GPU, Partition("p", PartitionKind.MPS, "GPU-1", (), 25, 1 << 30), SEEN, ["client list"]),
        (GPU, Partition("p", PartitionKind.WHOLE, "GPU-1"), SEEN, ["SM count"]),
        (GPU, Partition("p", PartitionKind.WHOLE, "GPU-1"), replace(SEEN, device_uuid=None), ["device", "SM count"]),
        (GPU, Partition("mig-9-4", PartitionKind.MIG, "GPU-1"), replace(SEEN, device_uuid=None), ["MIG device"]),
    ],
)
def test_comparisons(device: Device, partition: Partition, seen: Observation, wrong: list[str]) -> None:
    assert [c.what for c in compare(device, partition, seen, None) if not c.ok] == wrong


async def test_parked_weights_leave_their_share_to_others_until_they_wake(
    h100: OpenNode, tmp_path: Path, forks: ZygoteClient
) -> None:
    kept = walls(h100, forks, tmp_path)
    kept.desired({"a": "", "b": ""})
    device = h100.devices[0].id
    first, second = await asyncio.gather(
        kept.spawn("w1", share(h100, "a", 60, 20 << 30)), kept.spawn("w2", share(h100, "a", 60, 20 << 30))
    )
    await kept.rest("w1")
    assert h100.authority.account(device).share_percent == 60, "another worker of the partition computes"
    await second.stop(5.0)
    await until(lambda: h100.authority.account(device).share_percent == 0, "the partition rests")
    assert h100.authority.account(device).memory_bytes == RESTING_BYTES
    other = await kept.spawn("w3", share(h100, "b", 60, 20 << 30))
    with pytest.raises(NotReady, match="120 %"):
        await kept.rouse("w1")
    await other.stop(5.0)
    kept.desired({"a": ""})
    await until(lambda: {p.id for p in h100.authority.partitions()} <= {"a", "b"}, "nobody is in the other")
    h100.authority.release("b")
    await kept.rouse("w1")
    assert h100.authority.account(device).share_percent == 60
    await kept.rouse("w1")
    await kept.rouse("nobody")
    await first.stop(5.0)


async def test_another_worker_in_a_resting_partition_ends_its_rest(
    h100: OpenNode, tmp_path: Path, forks: ZygoteClient
) -> None:
    kept = walls(h100, forks, tmp_path)
    kept.desired({"a": ""})
    device = h100.devices[0].id
    first = await kept.spawn("w1", share(h100, "a", 60))
    await kept.rest("w1")
    assert h100.authority.account(device).share_percent == 0
    second = await kept.spawn("w2", share(h100, "a", 60))
    assert h100.authority.account(device).share_percent == 60
    await asyncio.gather(first.stop(5.0), second.stop(5.0))


async def test_on_a_cpu_parked_weights_stay_where_they_are(tmp_path: Path, forks: ZygoteClient) -> None:
    node = opened(tmp_path)
    kept = walls(node, forks, tmp_path)
    kept.desired({"p": ""})
    worker = await kept.spawn("w1", cpuset(memory=1 << 30))
    await kept.rest("w1")
    assert node.authority.account("cpu").memory_bytes == 1 << 30
    await worker.stop(5.0)


async def test_a_partition_that_lost_its_worker_goes_when_it_is_not_wanted_any_more(
    h100: OpenNode, tmp_path: Path, forks: ZygoteClient
) -> None:
    kept = walls(h100, forks, tmp_path)
    kept.desired({"a": "", "b": ""})
    worker = await kept.spawn("w1", share(h100, "a", 60))
    await worker.stop(5.0)
    # Of a profile: it was never wished for, and is not taken away either.
    other = await kept.spawn("w2", share(h100, "mine", 20))
    assert {p.id for p in h100.authority.partitions()} == {"a", "mine"}
    kept.desired({"b": ""})
    await until(lambda: {p.id for p in h100.authority.partitions()} == {"mine"}, "nobody wants it")
    await other.stop(5.0)
