"""Parked weights on GPUs: out of the way of whoever needs the device, back where there is room, never over memory."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fleet_world import GIB, cpu
from test_control_parking import SwapWorld

from isolation.partition.ledger import RESTING_BYTES
from partywall.domain.fleet import Device, DeviceKind, Instance, PartitionKind, ReplicaState, ReplicaStatus
from partywall.domain.models import VersionState
from partywall.domain.placements import Placement
from router.control.coming_back import ComingBack, wake_rates
from router.control.holdings import waiting


def gpu(name: str = "GPU-1", memory: int = 8 * GIB, *kinds: PartitionKind, instances: int = 0) -> Device:
    slots = tuple(Instance(9, start, memory // 2, 60) for start in (0, 4)[:instances])
    return Device(name, DeviceKind.GPU, "H100", memory, 132, (), kinds, slots)


WITH_MPS = (PartitionKind.WHOLE, PartitionKind.MPS)


class GpuWorld(SwapWorld):
    """Its agents park at once, unless told to dawdle."""

    dawdles = False

    async def passes(self, count: int = 1, each_s: float = 0.3) -> None:
        for _ in range(count):
            if self.dawdles:
                # The agent still drains: it says nothing new.
                await super(SwapWorld, self).passes(1, each_s)
            else:
                await super().passes(1, each_s)

    def used(self, device: Device) -> int:
        """What is reckoned of a device's memory."""
        here = [p for p in self.catalog.placements() if p.partition.device_id == device.id]
        return sum(RESTING_BYTES if p.parked else p.memory_bytes for p in here)

    def say(self, one: Placement, **changes: object) -> None:
        said = ReplicaStatus(one.id, ReplicaState.STOPPED, memory_bytes=GIB)
        self.agents[one.node].says[one.id] = replace(said, **changes)  # type: ignore[arg-type]

    def reason(self, model: str) -> str:
        entry = self.catalog.model_by_id(model)
        assert entry is not None
        return entry.versions[1].reason


async def made(*devices: Device, models: tuple[str, ...] = ("bert",), share: int = 0) -> GpuWorld:
    world = GpuWorld()
    await world.start()
    world.join("g1", *devices)
    for name in models:
        await world.model("acme", name, share)
    await world.passes(3)
    return world


async def test_a_version_on_a_gpu_parks_and_comes_back_in_its_worker() -> None:
    world = await made(gpu("GPU-1", 8 * GIB, *WITH_MPS))
    before = world.placement("bert")
    assert before.partition.kind is PartitionKind.MPS
    await world.wish("bert", resident=False)
    await world.passes(3)
    assert world.placement("bert").parked
    assert world.state("bert") is VersionState.STORED
    world.say(world.placement("bert"), wake_seconds=0.5, wake_bytes=GIB)
    await world.passes(1)
    await world.wish("bert", resident=True)
    await world.passes(4)
    after = world.placement("bert")
    assert (after.id, after.worker_id, after.parked) == (before.id, before.worker_id, False)
    (decision,) = [d for d in world.catalog.decisions("bert") if "comes back" in d.summary]
    assert decision.inputs["wake_bytes_per_s"] == str(2 * GIB)


async def test_until_its_weights_have_left_the_device_they_count_there() -> None:
    world = await made(gpu("GPU-1", 2 * GIB), models=("bert", "gpt"))
    await world.wish("bert", resident=False)
    world.dawdles = True
    await world.passes(2)
    assert world.placement("bert").parked
    await world.model("acme", "vit")
    await world.passes(2)
    assert world.placements("vit") == []
    assert "0 MiB free" in world.reason("vit")
    world.dawdles = False
    await world.passes(3)
    assert world.placement("vit").partition.device_id == "GPU-1"


async def test_a_newcomer_takes_the_memory_and_what_rests_beside_it_goes_when_the_device_is_full() -> None:
    device = gpu("GPU-1", 3 * GIB)
    world = await made(device, models=("bert", "gpt", "vit"))
    await world.wish("bert", resident=False)
    await world.passes(3)
    assert world.used(device) <= device.memory_bytes
    await world.model("acme", "new")
    await world.passes(3)
    assert world.placement("new").partition.device_id == "GPU-1"
    assert world.placements("bert") == [], "three replicas fill the device: not even a context fits beside them"
    assert "its part of the device is needed" in world.swaps("bert")[0]
    assert world.used(device) <= device.memory_bytes


async def test_the_newcomer_and_what_goes_for_it_are_one_pass() -> None:
    device = gpu("GPU-1", 2 * GIB)
    world = await made(device, models=("bert", "gpt"))
    await world.wish("bert", resident=False)
    await world.passes(3)
    assert world.placement("bert").parked
    await world.model("acme", "new")
    await world.passes(1)
    assert world.placement("new")
    assert world.placements("bert") == []


async def test_while_others_have_the_device_it_waits_and_comes_back_when_they_go() -> None:
    device = gpu("GPU-1", 2 * GIB + RESTING_BYTES)
    world = await made(device, models=("bert", "gpt"))
    await world.wish("bert", resident=False)
    await world.passes(3)
    await world.model("acme", "new")
    await world.passes(3)
    assert world.placement("bert").parked
    await world.wish("bert", resident=True)
    await world.passes(4)
    assert world.placement("bert").parked
    assert world.state("bert") is VersionState.PENDING
    assert "its weights wait in host memory: it needs 1,024 MiB of its device, and others left 512 MiB" in world.reason(
        "bert"
    )
    assert sum("cannot come back yet" in s for s in world.swaps("bert")) == 1
    assert [w.model_id for w in waiting(world.reconciler.scene, [])] == ["bert"]
    world.swap_bytes = 0
    await world.wish("new", resident=False)
    await world.passes(6)
    assert not world.placement("bert").parked
    assert world.state("bert") is VersionState.READY
    assert world.used(device) <= device.memory_bytes


async def test_where_another_device_is_free_it_is_loaded_there() -> None:
    world = await made(gpu("GPU-1", GIB + RESTING_BYTES))
    await world.wish("bert", resident=False)
    await world.passes(3)
    await world.model("acme", "new")
    await world.passes(2)
    world.join("g2", gpu("GPU-2", 2 * GIB))
    await world.wish("bert", resident=True)
    await world.passes(4)
    moved = world.placement("bert")
    assert (moved.node, moved.parked) == ("g2", False)
    assert "it is loaded where there is a place" in world.swaps("bert")[0]


async def test_a_share_that_was_given_to_others_is_not_taken_back() -> None:
    world = await made(gpu("GPU-1", 80 * GIB, *WITH_MPS), share=60)
    await world.wish("bert", resident=False)
    await world.passes(3)
    await world.model("globex", "new", 60)
    await world.passes(3)
    assert world.placement("new").partition.share_percent == 60
    assert world.placement("bert").parked, "beside it: it takes no share while it rests"
    await world.wish("bert", resident=True)
    await world.passes(3)
    assert world.placement("bert").parked
    assert "its share was given to others: shares would add up to 120 %" in world.reason("bert")


async def test_an_instance_has_room_for_one_of_them() -> None:
    world = await made(gpu("GPU-1", 8 * GIB, PartitionKind.MIG, instances=1))
    assert world.placement("bert").partition.kind is PartitionKind.MIG
    await world.wish("bert", resident=False)
    await world.passes(3)
    assert world.placement("bert").parked
    await world.model("globex", "new")
    await world.passes(2)
    assert world.placement("new").partition.kind is PartitionKind.MIG
    assert world.placements("bert") == []


async def test_a_partition_of_ones_own_other_models_has_its_cap() -> None:
    world = await made(gpu("GPU-1", 8 * GIB, *WITH_MPS), models=("bert", "gpt"))
    assert world.placement("bert").partition == world.placement("gpt").partition
    await world.wish("bert", resident=False)
    await world.passes(3)
    await world.model("acme", "new")
    await world.passes(3)
    assert world.placement("new").partition == world.placement("gpt").partition
    await world.wish("bert", resident=True)
    await world.passes(4)
    moved = world.placement("bert")
    assert moved.partition != world.placement("gpt").partition, "its partition's 2 GiB are taken: loaded beside it"
    assert "its partition has 0 MiB left" in world.swaps("bert")[0]


async def test_the_budget_counts_the_host_memory_that_is_held() -> None:
    world = await made(gpu("GPU-1", 8 * GIB), models=("bert", "gpt"))
    world.swap_bytes = GIB + GIB // 4
    await world.start()
    await world.passes(2)
    for name in ("bert", "gpt"):
        await world.wish(name, resident=False)
        await world.passes(1)
        world.say(world.placement(name), memory_bytes=GIB // 2)
        await world.passes(2)
    # By the agent's word they weigh a GiB together; by what was reckoned for serving they would be two.
    assert [len(world.placements(name)) for name in ("bert", "gpt")] == [1, 1]
    world.say(world.placement("gpt"), memory_bytes=GIB)
    await world.passes(2)
    assert [len(world.placements(name)) for name in ("bert", "gpt")] == [0, 1]
    assert "--swap-bytes" in world.swaps("bert")[0]


async def test_weights_from_a_gpu_give_way_to_whoever_needs_host_memory() -> None:
    world = await made(gpu("GPU-1", GIB + RESTING_BYTES), cpu(memory=2 * GIB))
    assert world.placement("bert").partition.device_id == "GPU-1"
    await world.wish("bert", resident=False)
    await world.passes(3)
    for name, device in (("a", "GPU-1"), ("b", "cpu")):
        await world.model("acme", name)
        await world.passes(2)
        assert world.placement(name).partition.device_id == device
        assert world.placement("bert").parked
    await world.model("acme", "c")
    await world.passes(2)
    assert world.placement("c").partition.device_id == "cpu"
    assert world.placements("bert") == []
    assert "its memory is needed" in world.swaps("bert")[0]


async def test_a_fenced_device_keeps_nothing() -> None:
    world = await made(gpu("GPU-1", 8 * GIB), models=("bert", "gpt"))
    await world.wish("bert", resident=False)
    await world.passes(3)
    fenced = replace(gpu("GPU-1", 8 * GIB), fenced="Xid 79")
    world.leave("g1")
    world.join("g1", fenced)
    await world.passes(2)
    await world.wish("bert", resident=True)
    await world.passes(2)
    assert world.placement("bert").parked
    assert "its device is fenced (Xid 79)" in world.reason("bert")
    world.join("g2", gpu("GPU-2", 8 * GIB))
    await world.passes(4)
    assert world.placement("bert").node == "g2"


async def test_what_could_not_be_parked_is_dropped_with_the_agents_reason() -> None:
    world = await made(gpu("GPU-1", 8 * GIB))
    await world.wish("bert", resident=False)
    await world.passes(1)
    said = "released and unloaded: ProbeModel does not move its weights off a device"
    world.say(world.placement("bert"), memory_bytes=0, reason=said)
    await world.passes(3)
    assert world.placements("bert") == []
    assert said in world.swaps("bert")[0]


async def test_a_router_that_starts_anew_hears_of_parked_weights_before_it_reads_of_them() -> None:
    device = gpu("GPU-1", 2 * GIB)
    world = await made(device, models=("bert", "gpt"))
    await world.wish("bert", resident=False)
    await world.passes(3)
    parked = world.placement("bert")
    session = world.agents["g1"].session
    world.agents["g1"].report([parked], world.membership)
    assert parked.id in session.observed
    world.say(parked, memory_bytes=0)
    world.agents["g1"].report([parked], world.membership)
    assert parked.id not in session.observed


@pytest.mark.parametrize(("seconds", "expected"), [(0.25, 0.25), (0.0, 0.0)])
async def test_the_way_back_of_parked_weights_is_expected_instead_of_a_load(seconds: float, expected: float) -> None:
    world = await made(gpu("GPU-1", 8 * GIB))
    entry = world.catalog.model_by_id("bert")
    assert entry is not None
    version = replace(entry.versions[1], load_seconds=9.0)
    expects = ComingBack(world.membership.replica_runtimes)
    assert expects(version) == 9.0
    await world.wish("bert", resident=False)
    await world.passes(2)
    world.say(world.placement("bert"), wake_seconds=seconds, wake_bytes=GIB if seconds else 0)
    await world.passes(2)
    assert expects(version) == expected
    rates = wake_rates(world.membership.replica_runtimes())
    assert rates == ({("bert", 1): 4.0 * GIB} if seconds else {})
