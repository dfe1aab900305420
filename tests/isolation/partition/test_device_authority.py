"""The authority of a node: accounting, phases, fences, turns, and what it does when something fails."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from authority_node import CPU, Node, cores

from isolation.devices.errors import DeviceLost
from isolation.devices.facts import MigPlacement
from isolation.partition.journal import Phase
from isolation.partition.partitioner import Observation
from partywall.domain.fleet import Partition, PartitionKind
from partywall.errors import AlreadyExists, InvalidInput, NotFound, NotReady


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def test_shares_are_given_out_until_there_are_none(node: Node) -> None:
    node.authority.prepare(node.share("a", 60))
    with pytest.raises(NotReady, match="110 %"):
        node.authority.prepare(node.share("b", 50))
    node.authority.prepare(node.share("c", 40))
    assert node.authority.account(node.gpu.uuid).share_percent == 100
    node.authority.release("a")
    node.authority.prepare(node.share("b", 50))
    assert {p.id for p in node.authority.partitions(node.gpu.uuid)} == {"b", "c"}


def test_the_same_partition_twice_is_one_and_another_under_its_id_is_refused(node: Node) -> None:
    first = node.authority.prepare(node.share("a", 60))
    assert node.authority.prepare(node.share("a", 60)) == first
    with pytest.raises(AlreadyExists, match="a resize takes a new id"):
        node.authority.prepare(node.share("a", 30))


def test_attestation_goes_to_the_right_wall(node: Node) -> None:
    partition = cores("c", 1, 2)
    with pytest.raises(NotFound):
        node.authority.attest(partition, Observation(1))
    node.authority.prepare(partition)
    assert node.authority.attest(partition, Observation(1, (1, 2), 2)).ok
    assert not node.authority.attest(partition, Observation(1, (0, 1), 2)).ok
    node.authority.before_kill(partition, 1)


def test_after_a_restart_everything_is_accounted_for(node: Node) -> None:
    node.authority.prepare(node.share("a", 60))
    node.authority.prepare(cores("c", 0))
    node.restart()
    assert {p.id for p in node.authority.partitions()} == {"a", "c"}
    with pytest.raises(NotReady, match="120 %"):
        node.authority.prepare(node.share("b", 60))


def test_reconcile_closes_the_gap_and_goes_on_past_failures(node: Node) -> None:
    node.authority.prepare(node.share("old", 50))
    desired = [node.share("new", 50), node.share("too much", 60), cores("c", 3), Partition("x", PartitionKind.MPS, "?")]
    result = node.authority.reconcile(desired)
    assert result.released == ("old",)
    assert set(result.confinements) == {"new", "c"}
    assert set(result.problems) == {"too much", "x"}
    again = node.authority.reconcile(desired)
    assert again.confinements == result.confinements
    assert again.released == ()


def test_reconcile_never_stops_a_daemon_that_somebody_still_needs(node: Node) -> None:
    keep, drop = node.share("keep", 50), node.share("drop", 50)
    environment = node.authority.prepare(keep).environment
    node.authority.prepare(drop)
    node.mps.cuda_process(1, {k: v for k, v in environment.items() if v})
    node.restart()
    node.authority.reconcile([keep])
    assert node.mps.clients() == (1,)


def test_a_held_partition_stays_in_the_account_until_it_goes(node: Node) -> None:
    node.root().set_mig_mode(node.gpu.uuid, True)
    partition = node.mig("9-4")
    node.authority.prepare(partition)
    node.gpu.start_process(7, gpu_instance=1)
    with pytest.raises(NotReady, match="held by pids 7"):
        node.authority.release(partition.id)
    assert node.journal.entries[partition.id].phase is Phase.RELEASING
    node.gpu.end_process(7)
    assert node.authority.reconcile([]).released == (partition.id,)
    assert node.authority.partitions() == ()


@pytest.mark.parametrize("notice", ["event", "reconcile"])
def test_a_slot_that_a_stranger_took_over_is_his(node: Node, notice: str) -> None:
    stranger = node.root()
    stranger.set_mig_mode(node.gpu.uuid, True)
    partition = node.mig("9-4")
    node.authority.prepare(partition)
    stranger.destroy_compute_instance(node.gpu.uuid, 1, 0)
    stranger.destroy_gpu_instance(node.gpu.uuid, 1)
    if notice == "event":
        assert node.authority.layout_changed(node.gpu.uuid) == (f"{node.gpu.uuid}/9@4",)
    else:
        node.authority.reconcile([node.share("mps beside mig has no place", 10), partition])
        node.authority.reconcile([])
        assert stranger.gpu_instances(node.gpu.uuid) == (), "it was made anew, was ours again, and is gone"
    made = stranger.create_gpu_instance(node.gpu.uuid, 9, MigPlacement(4, 4))
    node.authority.release(partition.id)
    assert stranger.gpu_instances(node.gpu.uuid) == (made,)
    assert node.authority.layout_changed(CPU.id) == ()


def test_what_cannot_be_made_leaves_nothing_behind(node: Node) -> None:
    node.root().set_mig_mode(node.gpu.uuid, True)
    node.root().create_gpu_instance(node.gpu.uuid, 19, MigPlacement(5, 1))
    with pytest.raises(NotReady):
        node.authority.prepare(node.mig("9-4"))
    assert node.authority.partitions() == ()
    assert len(node.root().gpu_instances(node.gpu.uuid)) == 1


def test_a_failed_second_look_takes_nothing_down(node: Node) -> None:
    node.root().set_mig_mode(node.gpu.uuid, True)
    partition = node.mig("9-4")
    node.authority.prepare(partition)
    node.gpu.raise_xid(79)
    with pytest.raises(DeviceLost):
        node.authority.prepare(partition)
    assert node.authority.partitions() == (partition,)


def test_a_lost_device_is_fenced_until_the_operator_clears_it(node: Node) -> None:
    node.root().set_mig_mode(node.gpu.uuid, True)
    node.gpu.raise_xid(79)
    with pytest.raises(DeviceLost):
        node.authority.prepare(node.mig("9-4"))
    assert node.authority.fenced(node.gpu.uuid) is not None
    with pytest.raises(NotReady, match="is fenced"):
        node.authority.prepare(node.share("a", 10))
    node.authority.prepare(cores("c", 0))
    node.gpu.reset()
    node.authority.unfence(node.gpu.uuid)
    assert node.authority.reconcile([cores("c", 0)]).problems == {}
    node.authority.prepare(node.share("a", 10))
    node.authority.fence(CPU.id, "the operator said so")
    assert node.authority.fenced(CPU.id) == "the operator said so"


def test_workers_start_one_after_the_other_on_a_device(node: Node) -> None:
    inside: list[str] = []
    started = threading.Event()

    def second() -> None:
        started.set()
        with node.authority.starting(node.gpu.uuid):
            inside.append("second")

    with node.authority.starting(node.gpu.uuid):
        thread = threading.Thread(target=second)
        thread.start()
        assert started.wait(10)
        with pytest.raises(NotReady, match="has been starting"), node.authority.starting(node.gpu.uuid, turn_s=0.01):
            pass
        with node.authority.starting(CPU.id, turn_s=0.01):
            inside.append("first")
    thread.join(10)
    assert inside == ["first", "second"]


@pytest.mark.parametrize(
    "partition",
    [Partition("a", PartitionKind.MPS, "nowhere"), Partition("a", PartitionKind.MPS, "cpu")],
)
def test_partitions_of_another_node_are_refused(node: Node, partition: Partition) -> None:
    with pytest.raises((InvalidInput, NotReady)):
        node.authority.prepare(partition)
