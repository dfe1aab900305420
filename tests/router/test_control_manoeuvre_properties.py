"""Random lives of a fleet: whatever happens in whatever order, nothing overlaps that must not, and it settles."""

from __future__ import annotations

import asyncio
from collections import defaultdict

from fleet_world import GIB, FleetWorld, cpu
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st

from isolation.trust import needed_wall, wall_between
from partywall.domain.fleet import Device, DeviceKind, PartitionKind
from partywall.domain.tenants import TrustPolicy
from partywall.errors import InvalidInput, NotFound, NotReady
from router.control.partitions import Change, Partitions
from router.policy.placement import Operator

NODES = ("n1", "n2", "n3")
TENANTS = ("a", "b", "c")
POLICIES = tuple(TrustPolicy)

steps = st.lists(
    st.one_of(
        st.tuples(st.just("model"), st.integers(0, 2), st.sampled_from([0, 25, 50])),
        st.tuples(st.just("resize"), st.integers(0, 8), st.integers(1, 100)),
        st.tuples(st.just("move"), st.integers(0, 8), st.integers(0, 2)),
        st.tuples(st.just("policy"), st.integers(0, 2), st.integers(0, 3)),
        st.tuples(st.just("leave"), st.integers(0, 2), st.just(0)),
        st.tuples(st.just("join"), st.integers(0, 2), st.just(0)),
        st.tuples(st.just("fail"), st.integers(0, 2), st.integers(0, 1)),
        st.tuples(st.just("restart"), st.just(0), st.just(0)),
        st.tuples(st.just("pass"), st.integers(1, 6), st.integers(1, 120)),
    ),
    max_size=14,
)


def devices(kind: str) -> tuple[Device, ...]:
    if kind == "cpu":
        return (cpu(4, 6 * GIB),)
    kinds = (PartitionKind.WHOLE, PartitionKind.MPS)
    return (Device("GPU-1", DeviceKind.GPU, "H100", 40 * GIB, 132, (), kinds),)


class Life:
    """One fleet and what befalls it."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.world = FleetWorld(Operator(overcommit=False))
        self.models = 0

    async def live(self, todo: list[tuple[str, int, int]]) -> None:
        await self.world.start()
        for node in NODES[:2]:
            self.world.join(node, *devices(self.kind))
        for name, one, two in todo:
            await getattr(self, f"do_{name}")(one, two)
            self.check()
        await self.settle()

    async def do_model(self, tenant: int, share: int) -> None:
        self.models += 1
        await self.world.model(TENANTS[tenant], f"m{self.models}", share)

    async def do_resize(self, which: int, share: int) -> None:
        await self._change(which, Change(share_percent=share))

    async def do_move(self, which: int, node: int) -> None:
        await self._change(which, Change(node=NODES[node]))

    async def do_policy(self, tenant: int, policy: int) -> None:
        if self.world.catalog.tenant(TENANTS[tenant]) is not None:
            await self.world.change(TENANTS[tenant], POLICIES[policy])

    async def do_leave(self, node: int, _: int) -> None:
        if NODES[node] in self.world.agents:
            self.world.leave(NODES[node])

    async def do_join(self, node: int, _: int) -> None:
        if NODES[node] not in self.world.agents:
            self.world.join(NODES[node], *devices(self.kind))

    async def do_fail(self, node: int, on: int) -> None:
        agent = self.world.agents.get(NODES[node])
        if agent is not None:
            agent.fail_new = "out of luck" if on else ""

    async def do_restart(self, _: int, __: int) -> None:
        await self.world.start()

    async def do_pass(self, count: int, tenths: int) -> None:
        for _ in range(count):
            await self.world.passes(each_s=tenths / 10)
            self.check()

    async def _change(self, which: int, change: Change) -> None:
        partitions = Partitions(self.world.reconciler.scene, self.world.reconciler.manoeuvres)
        uses = partitions.uses()
        if not uses:
            return
        try:
            await partitions.change(uses[which % len(uses)].partition.id, change, dry_run=False)
        except (NotReady, InvalidInput, NotFound):
            return

    def check(self) -> None:
        """What holds at every moment: memory always; cores and shares but for a takeover and what it replaces."""
        placements = self.world.catalog.placements()
        leaving = {p.replaces for p in placements if p.replaces}
        assert not leaving & {p.id for p in placements if p.replaces}, "a chain of takeovers"
        by_device = defaultdict(list)
        for one in placements:
            by_device[one.node, one.partition.device_id].append(one)
        limit = devices(self.kind)[0].memory_bytes
        for here in by_device.values():
            assert sum(p.memory_bytes for p in here) <= limit
            stay = {p.partition.id: p.partition for p in here if p.id not in leaving}
            assert sum(p.share_percent for p in stay.values() if p.kind is PartitionKind.MPS) <= 100
            cores = [core for p in stay.values() for core in p.cores]
            assert len(cores) == len(set(cores)) or any(p.kind is PartitionKind.WHOLE for p in stay.values())

    async def settle(self) -> None:
        """Left alone, with agents that work again: no manoeuvre goes on, and trust holds between all that stand."""
        for agent in self.world.agents.values():
            agent.fail_new = ""
            agent.says.clear()
        for _ in range(60):
            await self.world.passes(each_s=0.6)
            self.check()
        assert self.world.reconciler.manoeuvres.under_way() == []
        standings = self.world.reconciler.scene.standings()
        for one in standings:
            for other in standings:
                if one is not other:
                    needed = needed_wall(one.resident, other.resident, TrustPolicy.SHARED)
                    assert wall_between(one.placement, other.placement) >= needed
        before = sorted(p.id for p in self.world.catalog.placements())
        await self.world.passes(5, each_s=0.6)
        assert sorted(p.id for p in self.world.catalog.placements()) == before, "it does not come to rest"


@examples(60)
@given(st.sampled_from(["cpu", "gpu"]), steps)
def test_whatever_happens_nothing_overlaps_and_it_settles(kind: str, todo: list[tuple[str, int, int]]) -> None:
    asyncio.run(Life(kind).live(todo))
