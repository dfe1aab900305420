"""A router that starts anew has heard nobody yet, and takes nobody for lost."""

from __future__ import annotations

from fleet_world import FleetWorld, cpu

from router.control.passes.retire import MOVE_AFTER_S


async def two_nodes() -> FleetWorld:
    world = await FleetWorld().start()
    for node, model in (("n1", "bert"), ("n2", "gpt")):
        world.join(node, cpu())
        await world.model(f"owner-of-{model}", model, share=100)
        await world.passes(2)
    assert {p.node for p in world.catalog.placements()} == {"n1", "n2"}
    return world


async def test_the_first_agent_to_return_does_not_take_over_the_others_models() -> None:
    world = await two_nodes()
    before = {p.id for p in world.catalog.placements()}
    late = world.agents.pop("n2")
    await world.start()
    await world.passes(3, each_s=MOVE_AFTER_S / 6)
    assert {p.id for p in world.catalog.placements()} == before
    world.join("n2", *late.devices)
    await world.passes(20, each_s=MOVE_AFTER_S / 6)
    assert {p.id for p in world.catalog.placements()} == before


async def test_a_node_that_does_not_return_is_lost_after_the_same_time_as_ever() -> None:
    world = await two_nodes()
    del world.agents["n2"]
    await world.start()
    await world.passes(20, each_s=MOVE_AFTER_S / 6)
    assert {p.node for p in world.catalog.placements()} == {"n1"}
