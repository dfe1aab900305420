"""What a flooding tenant's work in the same worker means for another's predicted finish."""

from __future__ import annotations

import pytest

from partywall.domain.fleet import Partition, PartitionKind
from partywall.domain.placements import Placement
from router.gateway.replicas import Replica
from router.policy.routing import predicted_finish_s
from router.policy.worker_load import TenantBacklog, Turn, fair_backlog_s, shared_backlog_s

CPU = Partition("part-1", PartitionKind.WHOLE, "cpu")


def replica(tenant: str, outstanding: int = 0, weight: float = 1.0, batch: int = 1) -> Replica:
    placed = Placement(f"{tenant}-{outstanding}", tenant, "model", 1, "node", CPU, "worker-1", 0, 1)
    made = Replica(placed, 1, outstanding_rows=outstanding, outstanding_requests=outstanding, max_batch=batch)
    made.weight = weight
    made.service.observe(1, 0.01, 0.0)
    if batch > 1:
        made.service.observe(batch, 0.01 * batch, 0.0)
    return made


def test_a_queue_of_another_tenant_counts_as_far_as_the_fair_queue_lets_it_by() -> None:
    mine, flood = replica("acme"), replica("globex", outstanding=100)
    mine.peers = (flood,)
    assert mine.shared_backlog_s == pytest.approx(0.02), "its share beside our one request, and one batch"
    flood.peers = (mine,)
    assert flood.shared_backlog_s == 0.0


def test_little_work_of_another_counts_as_what_it_is() -> None:
    mine = replica("acme", outstanding=5)
    mine.peers = (replica("globex", outstanding=1),)
    assert mine.shared_backlog_s == pytest.approx(0.01)


def test_work_of_the_same_tenant_counts_whole() -> None:
    mine = replica("acme")
    mine.peers = (replica("acme", outstanding=7),)
    assert mine.shared_backlog_s == pytest.approx(0.07)


def test_weights_and_long_batches_count() -> None:
    mine = replica("acme", outstanding=2)
    mine.peers = (replica("globex", outstanding=64, weight=2.0, batch=8),)
    assert mine.shared_backlog_s == pytest.approx(0.03 * 2 + 0.08)


def test_the_bound_is_never_above_what_waits() -> None:
    others = [TenantBacklog(0.005, 0.01), TenantBacklog(5.0, 0.01)]
    assert fair_backlog_s(0.02, others) == pytest.approx(0.005 + 0.03)
    assert fair_backlog_s(0.02, []) == 0.0


def test_of_a_flood_the_running_batch_is_the_one_that_counts_and_only_what_is_left_of_it() -> None:
    mine, flood = replica("acme"), replica("globex", outstanding=100)
    mine.peers = (flood,)
    mine.turn = flood.turn = Turn(5.0, flood, 1, 0.01)
    backlog_s = shared_backlog_s(mine, mine.peers, mine.turn, 5.008)
    assert backlog_s == pytest.approx(0.02 - 0.008)
    assert predicted_finish_s(mine, 1, 5.008) == pytest.approx(0.01 + backlog_s)
