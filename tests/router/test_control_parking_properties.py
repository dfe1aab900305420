"""Random lives of a GPU whose versions are released and wanted again: never over its memory or its shares."""

from __future__ import annotations

import asyncio

from fleet_world import GIB
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st
from test_control_parking_gpu import WITH_MPS, GpuWorld, gpu

from isolation.partition.ledger import RESTING_BYTES
from partywall.domain.fleet import Device, PartitionKind
from partywall.domain.models import VersionState

steps = st.lists(
    st.one_of(
        st.tuples(st.just("model"), st.integers(0, 2), st.sampled_from([0, 25, 60])),
        st.tuples(st.just("wish"), st.integers(0, 7), st.integers(0, 1)),
        st.tuples(st.just("dawdle"), st.integers(0, 1), st.just(0)),
        st.tuples(st.just("pass"), st.integers(1, 4), st.just(0)),
    ),
    max_size=20,
)


class Life:
    def __init__(self, device: Device) -> None:
        self.device, self.world, self.models = device, GpuWorld(), 0

    async def live(self, todo: list[tuple[str, int, int]]) -> None:
        await self.world.start()
        self.world.join("g1", self.device)
        for what, one, two in todo:
            await getattr(self, f"do_{what}")(one, two)
            self.check()
        await self.settle()

    async def do_model(self, tenant: int, share: int) -> None:
        self.models += 1
        await self.world.model("abc"[tenant], f"m{self.models}", share)
        await self.do_pass(1, 0)

    async def do_wish(self, which: int, resident: int) -> None:
        if self.models:
            await self.world.wish(f"m{which % self.models + 1}", resident=bool(resident))
            await self.do_pass(1, 0)

    async def do_dawdle(self, dawdles: int, _: int) -> None:
        self.world.dawdles = bool(dawdles)

    async def do_pass(self, count: int, _: int) -> None:
        for _number in range(count):
            await self.world.passes(1)
            self.check()

    def check(self) -> None:
        """What computes, or is still on its way off the device, and what rests beside it, fit together."""
        scene = self.world.reconciler.scene
        there = list(self.world.catalog.placements())
        on = [p for p in there if not scene.off_device(p)]
        resting = [p for p in there if scene.off_device(p)]
        used = sum(p.memory_bytes for p in on)
        assert used + RESTING_BYTES * len(resting) <= self.device.memory_bytes or not resting
        assert used <= self.device.memory_bytes
        shares = {p.partition.id: p.partition for p in on if p.partition.kind is PartitionKind.MPS}
        assert sum(p.share_percent for p in shares.values()) <= 100

    async def settle(self) -> None:
        """Whoever is wanted and has room serves in the end; who waits says for what."""
        self.world.dawdles = False
        await self.do_pass(6, 0)
        for entry in self.world.catalog.models():
            version = entry.versions[1]
            if version.resident:
                assert version.state in (VersionState.READY, VersionState.PENDING), version
                assert version.state is VersionState.READY or version.reason


@examples(40)
@given(todo=steps, memory=st.integers(2, 9))
def test_mps_shares(todo: list[tuple[str, int, int]], memory: int) -> None:
    asyncio.run(Life(gpu("GPU-1", memory * GIB + GIB // 2, *WITH_MPS)).live(todo))


@examples(40)
@given(todo=steps, memory=st.integers(1, 4))
def test_whole_devices(todo: list[tuple[str, int, int]], memory: int) -> None:
    asyncio.run(Life(gpu("GPU-1", memory * GIB + GIB // 2)).live(todo))


@examples(40)
@given(todo=steps)
def test_instances(todo: list[tuple[str, int, int]]) -> None:
    asyncio.run(Life(gpu("GPU-1", 8 * GIB, PartitionKind.MIG, instances=2)).live(todo))
