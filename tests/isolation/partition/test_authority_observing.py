"""A device that is only observed, for want of privileges or because the operator said so: what stands is used."""

from __future__ import annotations

from pathlib import Path

import pytest
from authority_node import Node, cores

from isolation.devices.errors import DeviceForbidden
from isolation.devices.facts import MigPlacement
from isolation.partition.mps_control import MpsForbidden
from partywall.domain.fleet import Partition, PartitionKind
from partywall.errors import InvalidInput, PermissionDenied


def test_without_privileges_the_node_observes_and_uses_what_stands(tmp_path: Path) -> None:
    node = Node(tmp_path, privileged=False)
    node.root().set_mig_mode(node.gpu.uuid, True)
    assert node.authority.observed(node.gpu.uuid) == ""
    with pytest.raises(DeviceForbidden):
        node.authority.prepare(node.mig("9-4"))
    assert "create_gpu_instance" in node.authority.observed(node.gpu.uuid)
    with pytest.raises(PermissionDenied, match="would have to be made"):
        node.authority.prepare(node.mig("9-4"))
    made = node.root().create_gpu_instance(node.gpu.uuid, 9, MigPlacement(4, 4))
    node.root().create_compute_instance(node.gpu.uuid, made.id)
    node.authority.prepare(node.mig("9-4"))
    node.authority.release("mig-9-4")
    assert node.root().gpu_instances(node.gpu.uuid) == (made,)


def test_an_observed_device_keeps_what_stands_and_takes_no_daemon(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.root().set_mig_mode(node.gpu.uuid, True)
    node.authority.prepare(node.mig("9-4"))
    standing = node.root().gpu_instances(node.gpu.uuid)
    node.authority.observe(node.gpu.uuid, "the operator said so")
    node.authority.prepare(node.mig("9-4"))
    node.authority.release("mig-9-4")
    assert node.authority.partitions() == ()
    assert node.root().gpu_instances(node.gpu.uuid) == standing, "ours too: nothing is destroyed"
    for made in (node.mig("9-0"), node.share("a", 10)):
        with pytest.raises(PermissionDenied, match="the operator said so"):
            node.authority.prepare(made)
    assert not node.mps.alive()
    node.authority.prepare(cores("c", 0))
    with pytest.raises(InvalidInput, match="not on this node"):
        node.authority.observe("GPU-elsewhere", "no")


def test_a_daemon_that_may_not_be_started_makes_the_device_observed(tmp_path: Path) -> None:
    node = Node(tmp_path)

    def refuse() -> None:
        raise MpsForbidden("the MPS daemon may not be started: Permission denied")

    node.mps.start = refuse  # type: ignore[method-assign]
    with pytest.raises(MpsForbidden):
        node.authority.prepare(node.share("a", 10))
    assert "may not be started" in node.authority.observed(node.gpu.uuid)
    assert node.authority.partitions() == ()
    node.authority.prepare(Partition("w", PartitionKind.WHOLE, node.gpu.uuid))
