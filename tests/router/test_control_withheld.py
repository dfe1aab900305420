"""A version whose data key cannot be unwrapped: the tenant and the operator hear of it, the others go on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from fleet_world import FleetWorld, cpu

from partywall.domain.models import SealedFile, VersionState
from partywall.v1 import agent_link_pb2 as link
from router.control.desired import RETRY_S
from router.control.records import DataKeyRecord

FILE = SealedFile("model.safetensors", 10, 100, b"h", b"s")


class KeyedWorld(FleetWorld):
    """Versions with a sealed file each, and an agent that reports what it was told to have standing."""

    async def start(self) -> KeyedWorld:
        await super().start()
        self.desired: list[set[str]] = []
        self.join("n1", cpu())
        return self

    async def sealed(self, tenant: str, name: str) -> None:
        if self.catalog.tenant(tenant) is None:
            self.keys.create_tenant(tenant)
        made = await self.model(tenant, name)
        _, wrapped = self.keys.new_data_key(tenant, f"art-{name}")
        record = self.catalog.data_key(f"key-{name}")
        assert record is not None
        async with self.catalog.transaction() as tx:
            entry = self.catalog.model_by_id(name)
            assert entry is not None
            await tx.update(replace(entry.versions[1], files=(FILE,)))
            await tx.update(DataKeyRecord(record.id, tenant, f"art-{name}", wrapped, self.clock.now(), record.rev))
        assert made.number == 1

    async def passes(self, count: int = 1, each_s: float = 0.3) -> None:
        for _ in range(count):
            await self.reconciler.reconcile()
            await asyncio.sleep(0)
            for agent in self.agents.values():
                told = self.desired[-1] if self.desired else set()
                agent.report([p for p in self.catalog.placements() if p.id in told], self.membership)
            self.clock.advance(each_s)

    async def write(self, frame: link.RouterFrame | bytes) -> None:
        assert isinstance(frame, link.RouterFrame)
        if frame.HasField("desired"):
            self.desired.append({p.placement_id for p in frame.desired.placements})

    def damage(self, name: str, by: bytes = b"damaged") -> DataKeyRecord:
        """Changes what the database holds of a key, behind everybody's back."""
        record = self.catalog.data_key(f"key-{name}")
        assert record is not None
        return replace(record, wrapped=by)

    async def set(self, record: DataKeyRecord) -> None:
        now = self.catalog.data_key(record.id)
        assert now is not None
        async with self.catalog.transaction() as tx:
            await tx.update(replace(record, rev=now.rev))

    def said(self, model: str) -> list[str]:
        return [d.summary for d in self.catalog.decisions(model) if d.kind == "keys"]

    def reason(self, model: str) -> tuple[VersionState, str]:
        entry = self.catalog.model_by_id(model)
        assert entry is not None
        return entry.versions[1].state, entry.versions[1].reason


@pytest.fixture
async def world() -> AsyncIterator[KeyedWorld]:
    made = await KeyedWorld().start()
    writer = asyncio.create_task(made.agents["n1"].session.run_writer(made.write))
    yield made
    writer.cancel()
    await asyncio.gather(writer, return_exceptions=True)


async def test_it_is_said_and_the_others_go_on(world: KeyedWorld) -> None:
    await world.sealed("acme", "good")
    await world.sealed("acme", "bad")
    await world.set(world.damage("bad"))
    await world.passes(4)
    assert world.reason("good") == (VersionState.READY, "")
    state, reason = world.reason("bad")
    assert state is VersionState.LOADING
    assert "data key" in reason
    assert "push the version again" in reason
    (summary,) = world.said("bad")
    assert "cannot be loaded: its data key cannot be unwrapped" in summary
    assert not world.said("good")
    (event,) = [e for e in world.catalog.events() if e.kind == "key_unusable"]
    assert event.placement_id == world.placement("bad").id
    assert "acme" in event.message
    assert world.desired[-1] == {world.placement("good").id}


async def test_once_the_key_is_back_it_loads(world: KeyedWorld) -> None:
    await world.sealed("acme", "bert")
    whole = world.catalog.data_key("key-bert")
    assert whole is not None
    await world.set(world.damage("bert"))
    await world.passes(3)
    assert world.reason("bert")[0] is VersionState.LOADING
    await world.set(whole)
    await world.passes(2)
    assert world.desired[-1] == set(), "tried again too soon"
    world.clock.advance(RETRY_S)
    await world.passes(3)
    assert world.reason("bert") == (VersionState.READY, "")
    assert ["loaded again" in one for one in world.said("bert")] == [True, False]
    assert len(world.desired) <= 4, "nothing is sent twice"


async def test_what_serves_goes_on_serving(world: KeyedWorld) -> None:
    await world.sealed("acme", "old")
    await world.passes(3)
    assert world.reason("old")[0] is VersionState.READY
    await world.set(world.damage("old"))
    await world.sealed("acme", "new")
    await world.passes(3)
    assert world.reason("old")[0] is VersionState.READY
    assert world.reason("new")[0] is VersionState.READY
    assert len(world.said("old")) == 1, "it would not come up again, and the tenant knows"
    assert world.placement("old").id in world.desired[-1]
