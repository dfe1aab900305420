"""One book for several processes: whatever is sent where, the sum stays within the quota."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from partywall.clock import VirtualClock
from partywall.domain.tenants import Quota
from partywall.errors import Overloaded, QuotaExceeded, Reason
from router.gateway.shared_throttle import IDLE_S, WINDOW, QuotaBook, SharedThrottle

CLOCK_START_S = 1000.0


class Processes:
    """Throttles of several processes over one folder, on one clock."""

    def __init__(self, folder: Path, count: int = 3, slots: int = 256) -> None:
        self.clock = VirtualClock()
        self.clock.advance(CLOCK_START_S)
        self.books = [QuotaBook(folder, index, count, slots) for index in range(count)]
        self.throttles = [SharedThrottle(self.clock, book) for book in self.books]

    async def granted(self, index: int, quota: Quota, tenant: str = "t") -> bool:
        try:
            await self.throttles[index].enter(tenant, quota)
        except QuotaExceeded:
            return False
        return True


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    made = Processes(tmp_path)
    with ExitStack() as stack:
        for book in made.books:
            stack.callback(book.close)
        yield made


@pytest.mark.parametrize("seed", range(10))
async def test_over_any_time_the_sum_is_at_most_burst_and_rate(processes: Processes, seed: int) -> None:
    source = random.Random(seed)
    quota = Quota(requests_per_s=50, burst=7)
    grants: list[float] = []
    for _ in range(3000):
        processes.clock.advance(source.choice((0.0, 0.0, 0.001, 0.01, 0.1)))
        if await processes.granted(source.randrange(3), quota):
            grants.append(processes.clock.monotonic())
    for first in range(len(grants)):
        for last in range(first, min(first + 400, len(grants))):
            assert last - first + 1 <= 7 + 50 * (grants[last] - grants[first]) + 1e-6, f"seed {seed}"


async def test_one_process_alone_has_the_whole_quota(processes: Processes) -> None:
    quota = Quota(requests_per_s=100, burst=10)
    count = 0
    for _ in range(1000):
        processes.clock.advance(0.001)
        count += await processes.granted(1, quota)
    assert 105 <= count <= 110


async def test_the_hint_is_when_the_next_one_passes(processes: Processes) -> None:
    quota = Quota(requests_per_s=4, burst=2)
    assert [await processes.granted(index, quota) for index in (0, 1, 2)] == [True, True, False]
    with pytest.raises(QuotaExceeded) as refused:
        await processes.throttles[0].enter("t", quota)
    assert refused.value.reason is Reason.RATE_LIMITED
    assert refused.value.retry_after_s == pytest.approx(0.25)
    processes.clock.advance(0.25)
    assert await processes.granted(2, quota)
    assert not await processes.granted(1, quota)


async def test_requests_in_flight_are_counted_over_all(processes: Processes) -> None:
    quota = Quota(max_in_flight=3)
    assert [await processes.granted(index, quota) for index in (0, 1, 1, 2)] == [True, True, True, False]
    processes.throttles[2].leave("t")
    assert not await processes.granted(0, quota), "who holds nothing gives nothing back"
    processes.throttles[1].leave("t")
    assert await processes.granted(2, quota)


async def test_what_a_dead_process_had_in_flight_is_taken_back(processes: Processes) -> None:
    quota = Quota(max_in_flight=4)
    assert [await processes.granted(index, quota) for index in (0, 0, 0, 1)] == [True] * 4
    processes.books[0].forget_process()
    assert [await processes.granted(1, quota) for _ in range(4)] == [True, True, True, False]


async def test_a_changed_quota_counts_at_once_whoever_knows_it(processes: Processes) -> None:
    for _ in range(10):
        assert await processes.granted(0, Quota(requests_per_s=1, burst=10))
    assert not await processes.granted(1, Quota(requests_per_s=1, burst=10))
    assert await processes.granted(1, Quota(requests_per_s=1, burst=20))


async def test_tenants_without_limits_leave_no_trace(processes: Processes) -> None:
    for index in range(1000):
        await processes.throttles[0].enter(f"t{index}", Quota())
        processes.throttles[0].leave(f"t{index}")
    key = bytes(16)
    assert all(processes.books[0].holds(slot, key) for slot in range(256))


async def test_tenants_do_not_meet(processes: Processes) -> None:
    quota = Quota(requests_per_s=1, burst=1)
    for name in ("a", "b", "c"):
        assert await processes.granted(0, quota, name)
        assert not await processes.granted(1, quota, name)


async def test_idle_places_are_given_on_and_busy_ones_never(tmp_path: Path) -> None:
    few = Processes(tmp_path, count=2, slots=WINDOW)
    quota = Quota(requests_per_s=1, burst=1, max_in_flight=5)
    for index in range(WINDOW):
        assert await few.granted(0, quota, f"t{index}")
        few.throttles[0].leave(f"t{index}")
    with pytest.raises(Overloaded):
        await few.throttles[1].enter("one more", quota)
    few.clock.advance(IDLE_S + 2)
    assert await few.granted(1, quota, "one more")
    # Whoever lost its place finds another one.
    for index in range(WINDOW - 1):
        assert await few.granted(0, quota, f"t{index}")
    assert not await few.granted(0, quota, "one more")
    for book in few.books:
        book.close()
