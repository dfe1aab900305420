"""Live correction over two processes of one router: real sockets between them, time as a parameter."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from partywall.clock import VirtualClock
from partywall.domain.fleet import Device, DeviceKind, Partition, PartitionKind
from partywall.domain.placements import Placement
from partywall.domain.profiles import ProbePoint, ProbeSetting, Profile, Resource, device_type
from router.gateway.correction import Corrections
from router.gateway.journal import Journal
from router.gateway.replicas import Replica
from router.gateway.service_window import ServiceWindow, together
from router.gateway.statistics import Statistics
from router.processes.answers import Answers, socket_of
from router.processes.shared_slowdowns import MOST_SILENT, FollowersSlowdowns, LeadersSlowdowns
from router.processes.siblings import Siblings
from router.settings import Rank

CPU = Device("cpu", DeviceKind.CPU, "CPU", 1 << 33, 2, (0, 1))
AT = ProbePoint(ProbeSetting(Resource.LLC), 50, 50)
SOLO_S, PERIOD_S = 0.010, 2.0


class Book:
    def profile(self, model_id: str, version: int, device_type: str) -> Profile | None:
        return Profile(
            model_id, device_type, {50: 10.0}, {50: 10.0}, {AT: 1.2}, {AT: 2.0},
            solo_at_ms={(1, 50): 1e3 * SOLO_S}, probe_self={AT: 2.0},
        )  # fmt: skip


def replicas() -> tuple[Replica, Replica]:
    """One process's own objects for the same two placements."""
    made = []
    for core, name in enumerate(("victim", "neighbour")):
        partition = Partition(f"p-{name}", PartitionKind.CPUSET, "cpu", (core,), 0)
        made.append(Replica(Placement(f"place-{name}", name, name, 1, "n1", partition, name, 0, 1), core + 1))
    return made[0], made[1]


class Pair:
    """Process 0 leads, process 1 follows."""

    def __init__(self, folder: Path) -> None:
        self.leads, self.follows = replicas(), replicas()
        self.corrections = Corrections(lambda: self.leads, lambda node: (CPU,), Book(), device_type)
        siblings = [
            Siblings(Rank(i, 2, (), folder), Statistics(CollectorRegistry()), CollectorRegistry(), Journal(clock))
            for i, clock in enumerate((VirtualClock(), VirtualClock()))
        ]
        self.leader = LeadersSlowdowns(siblings[0].ask_others, self.corrections)
        self.follower = FollowersSlowdowns(siblings[1].ask_leader, lambda: self.follows, PERIOD_S)
        self.answers = [Answers(self.leader.answers()), Answers(self.follower.answers())]
        self.folder = folder
        self.at_s = 0.0

    async def start(self) -> Pair:
        for index, answers in enumerate(self.answers):
            await answers.start(socket_of(self.folder, index))
        return self

    async def close(self) -> None:
        for answers in self.answers:
            await answers.close()

    async def look(self) -> bool:
        """One period of both; answers whether the leading one judged."""
        self.at_s += PERIOD_S
        elsewhere = await self.leader.windows()
        if elsewhere is None:
            self.corrections.skip(self.at_s)
        else:
            self.corrections.tick(self.at_s, elsewhere)
        await self.follower.follow()
        return elsewhere is not None


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    made = await Pair(tmp_path).start()
    yield made
    await made.close()


def work(replica: Replica, batches: int, service_s: float = SOLO_S) -> None:
    for _ in range(batches):
        replica.window.add(1, service_s)


async def test_a_neighbour_that_only_another_process_sees_is_seen_and_all_obey(pair: Pair) -> None:
    for _ in range(10):
        work(pair.leads[0], 10)
        await pair.look()
    assert pair.leads[0].slowdown_factor == pair.follows[0].slowdown_factor == 1.0
    pair.follows[1].window.add(1, PERIOD_S)
    assert await pair.look()
    assert pair.leads[0].slowdown_factor > 1.0
    assert pair.follows[0].slowdown_factor == pair.leads[0].slowdown_factor
    now = pair.corrections.now("place-victim")
    assert now is not None
    assert [n.model_id for n in now.neighbours] == ["neighbour"]


async def test_batches_of_all_processes_are_judged_together(pair: Pair) -> None:
    for _ in range(10):
        work(pair.leads[0], 2)
        work(pair.follows[0], 2)
        await pair.look()
    for _ in range(20):
        # Three batches are the least that are judged: neither process has them alone.
        work(pair.leads[0], 2, 1.3 * SOLO_S)
        work(pair.follows[0], 2, 1.3 * SOLO_S)
        pair.follows[1].window.add(1, PERIOD_S / 2)
        pair.leads[1].window.add(1, PERIOD_S / 2)
        await pair.look()
    now = pair.corrections.now("place-victim")
    assert now is not None
    assert now.observed == pytest.approx(1.3, rel=0.02)


async def test_what_is_not_known_of_all_is_not_judged(pair: Pair) -> None:
    assert not await pair.look(), "what lies ready at first may be of any length of time"
    assert await pair.look()
    await pair.answers[1].close()
    socket_of(pair.folder, 1).unlink()
    work(pair.leads[0], 10)
    assert not await pair.look()
    now = pair.corrections.now("place-victim")
    assert now is not None
    assert not now.observed
    assert pair.leads[0].window.take() == {}


async def test_a_follower_starts_from_the_profile_and_outlives_the_leader_for_some_looks(pair: Pair) -> None:
    await pair.look()
    assert pair.follows[0].service.mean_s(1) == pytest.approx(SOLO_S)
    pair.leads[1].window.add(1, PERIOD_S)
    await pair.look()
    factor = pair.follows[0].slowdown_factor
    assert factor > 1.0
    await pair.answers[0].close()
    socket_of(pair.folder, 0).unlink()
    for _ in range(MOST_SILENT - 1):
        await pair.follower.follow()
        assert pair.follows[0].slowdown_factor == factor
    await pair.follower.follow()
    assert pair.follows[0].slowdown_factor == 1.0


def test_windows_add_up_and_a_shared_batch_counts_once() -> None:
    ours, theirs = ServiceWindow(), ServiceWindow()
    ours.add(4, 0.2, part=0.75)
    theirs.add(4, 0.2, part=0.25)
    theirs.add(1, 0.1)
    both = together((ours.take(), theirs.take()))
    assert both == {4: (1.0, pytest.approx(0.2)), 1: (1.0, 0.1)}
