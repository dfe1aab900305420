"""Partitions listed, resized and moved by the operator."""

from __future__ import annotations

import pytest
from fleet_world import FleetWorld, cpu

from partywall.domain.tenants import TrustPolicy
from partywall.errors import InvalidInput, NotFound, NotReady
from router.control.partition_views import outcome_view, use_view
from router.control.partitions import Change, Partitions
from router.policy.placement import Operator


@pytest.fixture
async def world() -> FleetWorld:
    made = await FleetWorld().start()
    made.join("n1", cpu())
    await made.model("acme", "bert")
    await made.model("acme", "vit")
    await made.passes(2)
    return made


def partitions(world: FleetWorld) -> Partitions:
    return Partitions(world.reconciler.scene, world.reconciler.manoeuvres)


async def settle(world: FleetWorld, *models: str) -> None:
    for _ in range(40):
        await world.passes(each_s=0.2)
        for model in models:
            assert sum(world.serving(model).values()) == 100


async def test_a_resize_takes_all_residents_along_and_keeps_its_cores(world: FleetWorld) -> None:
    (use,) = partitions(world).uses()
    assert len(use.partition.cores) == 1
    outcome = await partitions(world).change("acme/bert", Change(share_percent=50), dry_run=False)
    assert len(outcome.decisions) == 2
    assert set(use.partition.cores) < set(outcome.target.partition.cores)
    views = {u.partition.id: use_view(world.reconciler.scene, u) for u in partitions(world).uses()}
    assert views[use.partition.id].state == "leaving"
    assert views[outcome.target.partition.id].state == "arriving"
    assert views[outcome.target.partition.id].replaces == use.partition.id
    await settle(world, "bert", "vit")
    (after,) = partitions(world).uses()
    assert after.partition == outcome.target.partition
    assert use_view(world.reconciler.scene, after).state == "standing"
    assert len({p.worker_id for p in after.placements}) == len({p.worker_id for p in use.placements})


async def test_a_dry_run_changes_nothing_and_says_what_it_would(world: FleetWorld) -> None:
    before = world.catalog.placements()
    outcome = await partitions(world).change("acme/bert", Change(cores=3), dry_run=True)
    view = outcome_view(world.reconciler.scene, outcome)
    assert view.dry_run
    assert len(view.partition.cores) == 3
    assert (view.needed_bytes, view.free_bytes) == (2 << 30, 6 << 30)
    assert view.considered[0].chosen
    assert world.catalog.placements() == before


async def test_a_move_goes_to_the_node(world: FleetWorld) -> None:
    world.join("n2", cpu(2))
    await world.passes()
    placement = world.placement("bert")
    await partitions(world).change(placement.id, Change(node="n2"), dry_run=False)
    await settle(world, "bert", "vit")
    assert {p.node for p in world.catalog.placements()} == {"n2"}


async def test_trust_holds_for_moves_too(world: FleetWorld) -> None:
    world.join("n2", cpu(2))
    await world.model("zeta", "gpt", trust_policy=TrustPolicy.EXCLUSIVE)
    await world.passes(2)
    assert world.placement("gpt").node == "n2"
    with pytest.raises(NotReady, match="trust: a resident there needs own device"):
        await partitions(world).change("acme/bert", Change(node="n2"), dry_run=True)


async def test_trust_lines_name_the_neighbours(world: FleetWorld) -> None:
    await world.model("zeta", "gpt")
    await world.passes(2)
    outcome = await partitions(world).change("zeta/gpt", Change(cores=2), dry_run=True)
    assert list(outcome_view(world.reconciler.scene, outcome).trust) == ["acme: same device"]


async def test_without_overcommit_cores_must_be_free() -> None:
    world = await FleetWorld(Operator(overcommit=False)).start()
    world.join("n1", cpu(2))
    await world.model("acme", "bert")
    await world.model("zeta", "gpt")
    await world.passes(2)
    with pytest.raises(NotReady, match="are taken"):
        await partitions(world).change("acme/bert", Change(cores=2), dry_run=False)


@pytest.mark.parametrize(
    ("name", "change", "error", "words"),
    [
        ("nothing", Change(cores=2), NotFound, "partitions list"),
        ("acme/bert", Change(), InvalidInput, "nothing is asked for"),
        ("acme/bert", Change(share_percent=101), InvalidInput, "1 to 100"),
        ("acme/bert", Change(share_percent=50, cores=2), InvalidInput, "not both"),
        ("acme/bert", Change(cores=1), InvalidInput, "that size already"),
        ("acme/bert", Change(cores=9), NotReady, "9 cores are asked for"),
        ("acme/bert", Change(node="n1"), InvalidInput, "on n1 already"),
        ("acme/bert", Change(node="n9"), NotReady, "not connected"),
        ("acme/bert", Change(device_id="gpu"), NotReady, "has no device 'gpu'"),
    ],
)
async def test_bad_input_says_what_to_do(
    world: FleetWorld, name: str, change: Change, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        await partitions(world).change(name, change, dry_run=False)


async def test_one_change_at_a_time(world: FleetWorld) -> None:
    await partitions(world).change("acme/bert", Change(cores=2), dry_run=False)
    with pytest.raises(NotReady, match="being replaced already"):
        await partitions(world).change("acme/bert", Change(cores=3), dry_run=False)


async def test_memory_must_be_there_for_both() -> None:
    world = await FleetWorld().start()
    world.join("n1", cpu(memory=3 << 30))
    await world.model("acme", "bert")
    await world.model("acme", "vit")
    await world.passes(2)
    with pytest.raises(NotReady, match="needs 2,048 MiB while the old replicas still stand, 1,024 MiB free"):
        await partitions(world).change("acme/bert", Change(cores=2), dry_run=False)
