"""Who is here, written down on transitions only: a node that is away is still the operator's to see."""

from __future__ import annotations

from dataclasses import replace

from partywall.domain.fleet import Node, NodeState
from router.control.scene import Scene


async def record_nodes(scene: Scene) -> None:
    catalog, membership, clock = scene.catalog, scene.membership, scene.clock
    here = {s.node: s for s in membership.sessions()}
    known = {node.name: node for node in catalog.nodes()}
    for name, session in here.items():
        node = known.get(name)
        seen = Node(
            name,
            NodeState.ONLINE,
            session.hello.incarnation,
            membership.devices(name),
            clock.now(),
            session.hello.version,
            node.rev if node else 0,
        )
        if node is None or replace(node, last_seen_at=seen.last_seen_at) != seen:
            async with catalog.transaction() as tx:
                await (tx.insert(seen) if node is None else tx.update(seen))
    for name, node in known.items():
        if name not in here and node.state is NodeState.ONLINE:
            async with catalog.transaction() as tx:
                await tx.update(replace(node, state=NodeState.OFFLINE, last_seen_at=clock.now()))
