"""Shares cut anew in the router: carried out without a gap, recorded with inputs, shown before, and no tug-of-war."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fleet_world import cpu
from planned_shop import Quiet, Shop

from partywall.domain.placements import ShareBy
from partywall.errors import InvalidInput
from router.control.partition_views import released_view, use_view
from router.control.partitions import Partitions
from router.control.plan_views import preview_view
from router.policy.retarget import Change


@pytest.fixture
async def shop() -> Shop:
    return await Shop().start()


async def test_a_model_under_load_gets_a_larger_share_and_gives_it_back_when_somebody_waits(shop: Shop) -> None:
    await shop.model("acme", "m", 5)
    await shop.run(60)
    assert shop.cores_of("m") == [1]
    shop.rates["m"] = 30
    await shop.run(40)
    # After a jump the forecast's bound is above the rate: two cores or three.
    (cores,) = shop.cores_of("m")
    assert cores in (2, 3)
    assert shop.world.placement("m").share_by is ShareBy.PLANNER
    (grown,) = shop.decisions("m", "manoeuvre", "share grows")
    assert "expected too late at 1 core(s)" in grown.summary
    assert grown.inputs["share_now"] == "1 core(s)"
    assert grown.inputs["share_then"] == f"{cores} core(s)"
    assert float(grown.inputs["late_now"]) > 0.01 >= float(grown.inputs["late_then"])
    assert [a.chosen for a in grown.alternatives].count(True) == 1
    assert shop.decisions("m", "scale") == []
    # Steady from here on, also when the load goes, as long as nobody gains by less.
    await shop.run(200)
    shop.rates["m"] = 5
    await shop.run(400)
    assert shop.cores_of("m") == [cores]
    assert len(shop.decisions("m", "manoeuvre")) == 2
    await shop.model("globex", "big", 2, share=75)
    assert shop.world.placements("big") == []
    # It has long been larger than needed; now there is somebody who wants it.
    await shop.run(60)
    assert shop.cores_of("m") == [1]
    assert shop.cores_of("big") == [3]
    (shrunk,) = shop.decisions("m", "manoeuvre", "share shrinks")
    assert "globex" not in shrunk.summary
    assert "a resident waits for a place" in shrunk.summary
    assert shop.unserved == 0


async def test_what_waits_to_hold_is_shown() -> None:
    shop = await Shop(hold_s=900.0).start()
    await shop.model("acme", "m", 30)
    await shop.run(40)
    shop.rates["m"] = 5
    await shop.run(300)
    await shop.model("globex", "big", 2, share=75)
    await shop.run(10)
    preview = preview_view(
        shop.world.catalog, shop.planner.preview(), shop.planner.wishes(), shop.planner.recuts(), enabled=True
    )
    (step,) = [s for s in preview.steps if s.action == "resize"]
    assert "globex/big waits for a place" in step.reason
    assert step.reason.endswith("waiting for that to hold")
    assert step.place == "n1/cpu (1 core(s))"
    assert step.tenant == "acme"


async def test_growing_comes_before_another_replica_and_the_two_do_not_pull_at_each_other() -> None:
    shop = await Shop(nodes=2).start()
    await shop.model("acme", "m", 5)
    await shop.run(30)
    shop.rates["m"] = 30
    await shop.run(120)
    (cores,) = shop.cores_of("m")
    assert cores in (2, 3)
    assert shop.decisions("m", "scale") == []
    # More than a device may give: replicas come, each as large as the first.
    shop.rates["m"] = 180
    await shop.run(300)
    sizes = shop.cores_of("m")
    assert len(sizes) > 1
    changes = len(shop.decisions("m", "manoeuvre")) + len(shop.decisions("m", "scale"))
    await shop.run(300)
    assert shop.cores_of("m") == sizes
    assert len(shop.decisions("m", "manoeuvre")) + len(shop.decisions("m", "scale")) == changes
    assert shop.unserved == 0


async def test_one_change_of_a_device_at_a_time(shop: Shop) -> None:
    shop.world.join("n1", cpu(16))
    await shop.model("acme", "m", 40, share=0)
    await shop.model("globex", "n", 40, share=0)
    for _ in range(120):
        await shop.run(1)
        moving = {p.node for p in shop.manoeuvres.under_way()}
        assert len(shop.manoeuvres.under_way()) <= len(moving)


async def test_what_somebody_asked_for_stays(shop: Shop) -> None:
    await shop.model("acme", "asked", 45, share=25)
    await shop.model("globex", "resized", 5)
    partitions = Partitions(shop.world.reconciler.scene, shop.manoeuvres)
    await partitions.change("globex/resized", Change(cores=2), dry_run=False)
    await shop.run(10)
    placement = shop.world.placement("resized")
    assert (len(placement.partition.cores), placement.share_by) == (2, ShareBy.OPERATOR)
    await shop.run(120)
    assert shop.cores_of("asked") == [1]
    await shop.model("initech", "waits", 1, share=50)
    await shop.run(200)
    assert shop.cores_of("resized") == [2]
    assert shop.world.placements("waits") == []


async def test_a_size_is_the_planners_again_when_the_operator_says_so(shop: Shop) -> None:
    await shop.model("acme", "asked", 5, share=25)
    await shop.model("globex", "resized", 5)
    scene = shop.world.reconciler.scene
    partitions = Partitions(scene, shop.manoeuvres)
    await partitions.change("globex/resized", Change(cores=2), dry_run=False)
    await shop.run(60)
    use = partitions.find("globex/resized")
    assert use_view(scene, use).share_by == "operator"
    await shop.model("initech", "waits", 1, share=50)
    shown = released_view(scene, await partitions.release("globex/resized"))
    assert shown.before.share_by == "planner"
    assert "planner's" in shown.reason
    await shop.run(120)
    assert shop.cores_of("resized") == [1]
    assert shop.cores_of("waits") == [2]
    with pytest.raises(InvalidInput, match="push one without"):
        await partitions.release("acme/asked")


async def test_a_replica_that_moves_and_one_more_get_the_share_that_was_chosen() -> None:
    shop = await Shop(nodes=2, cores=8).start()
    await shop.model("acme", "m", 2)
    partitions = Partitions(shop.world.reconciler.scene, shop.manoeuvres)
    await partitions.change("acme/m", Change(cores=4), dry_run=False)
    await shop.run(20)
    scene = shop.world.reconciler.scene
    entry, tenant = scene.catalog.model_by_id("m"), scene.catalog.tenant("acme")
    assert entry is not None
    assert tenant is not None
    placement = shop.world.placement("m")
    assert scene.want(tenant, entry, entry.versions[1], placement).share_percent == 50
    async with shop.world.catalog.transaction() as tx:
        await tx.update(replace(entry.model, replicas=2))
    await shop.world.passes(4)
    second = next(p for p in shop.world.placements("m") if p.id != placement.id)
    assert (len(second.partition.cores), second.share_by) == (4, ShareBy.OPERATOR)


async def test_switched_off_it_only_shows() -> None:
    shop = await Shop(apply=False).start()
    await shop.model("acme", "m", 30)
    await shop.run(60)
    assert shop.cores_of("m") == [1]
    (wish,) = shop.planner.recuts()
    assert wish.due
    assert shop.decisions("m", "manoeuvre") == shop.decisions("m", "reshare") == []


async def test_where_no_share_helps_it_is_said_once(shop: Shop) -> None:
    await shop.model("acme", "m", 45, slo_ms=5)
    await shop.run(120)
    (said,) = shop.decisions("m", "reshare")
    assert "no larger share would keep the objective" in said.summary
    preview = preview_view(shop.world.catalog, [], [], shop.planner.recuts(), enabled=True)
    assert [s.action for s in preview.steps] == ["blocked"]


async def test_without_a_profile_shares_stay_and_replicas_come() -> None:
    shop = await Shop(nodes=2, knowledge=Quiet(profiled=False)).start()
    await shop.model("acme", "m", 5)
    await shop.run(30)
    shop.rates["m"] = 60
    await shop.run(60)
    assert set(shop.cores_of("m")) == {1}
    assert len(shop.cores_of("m")) > 1


async def test_a_restarted_router_knows_who_chose_the_share(shop: Shop) -> None:
    await shop.model("acme", "m", 30)
    await shop.run(60)
    assert shop.cores_of("m") == [2]
    await shop.world.start()
    assert shop.world.placement("m").share_by is ShareBy.PLANNER
