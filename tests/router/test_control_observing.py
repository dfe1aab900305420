"""What the planner is told of a model's service times."""

from __future__ import annotations

import pytest

from partywall.domain.fleet import Partition, PartitionKind
from partywall.domain.placements import Placement
from router.control.observing import batch_s, rows_per_request
from router.gateway.replicas import Replica
from router.policy.scaling import expected


def replica(max_batch: int, requests: int, rows: int, seconds: float) -> Replica:
    partition = Partition("p", PartitionKind.CPUSET, "cpu", (0,), 0)
    made = Replica(Placement("place", "t", "m", 1, "n1", partition, "w", 0, 1), 1, max_batch=max_batch)
    for at_s in range(20):
        made.service.observe(rows, seconds, float(at_s))
        made.saw_batch(rows, requests)
    return made


def test_nothing_ran() -> None:
    idle = Replica(replica(1, 1, 1, 0.01).placement, 1)
    assert batch_s([idle]) == {}
    assert rows_per_request([idle]) == 1.0


def test_batches_are_counted_in_requests_whatever_rows_they_have() -> None:
    # A batch holds one request of 64 rows: 15 ms each.
    one = replica(64, 1, 64, 0.015)
    found = batch_s([one])
    assert list(found) == [1]
    assert found[1] == pytest.approx(one.service.upper_s(64))
    # So fifty a second keep it busy for three quarters of the time, and not for a hundredth.
    assert expected(found, 100.0, 50.0, 1.0, 1).utilisation == pytest.approx(50 * found[1])


def test_as_many_requests_as_a_batch_has_rows_for() -> None:
    some = replica(128, 2, 64, 0.01)
    assert list(batch_s([some])) == [1, 2, 4]
    assert batch_s([some])[2] == pytest.approx(some.service.upper_s(64))


def test_of_several_replicas_the_slowest_counts() -> None:
    slow, fast = replica(8, 1, 1, 0.02), replica(8, 1, 1, 0.01)
    assert batch_s([fast, slow])[1] == pytest.approx(slow.service.upper_s(1))


def test_a_request_larger_than_a_batch_is_one() -> None:
    assert list(batch_s([replica(8, 1, 32, 0.01)])) == [1]
