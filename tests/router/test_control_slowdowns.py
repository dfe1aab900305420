"""What live correction shows: explain, metrics, and the decision that asks for a profile."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType

import pytest
from control_world import Ports, World, push

from isolation.interference.model import Basis
from partywall.domain.fleet import Partition, PartitionKind
from partywall.domain.placements import Placement
from partywall.domain.profiles import device_type
from router.control.slowdowns import Slowdowns
from router.faces import Names
from router.gateway.correction import Corrections
from router.gateway.service_window import Taken
from router.gateway.slowdown import SlowdownNow
from router.metrics import SlowdownCollector


@pytest.fixture
async def ports(ports: Ports) -> Ports:
    """Both tenants have a live model `m`."""
    for name in ("acme", "globex"):
        await push(ports, name, "m", promote=True)
    return ports


class Scripted(Corrections):
    """Corrections with a script for an answer."""

    def looks(self, at_s: float, elsewhere: Mapping[str, Taken] = MappingProxyType({})) -> Iterator[None]:
        """The script stands."""
        yield

    def all_now(self) -> list[SlowdownNow]:
        return SCRIPT


SCRIPT: list[SlowdownNow] = []


def placement(world: World, tenant: str) -> Placement:
    owner = world.catalog.tenant_by_name(tenant)
    assert owner is not None
    entry = world.catalog.model(owner.id, "m")
    assert entry is not None
    partition = Partition("p", PartitionKind.CPUSET, "cpu", (0,))
    return Placement(f"place-{tenant}", owner.id, entry.model.id, 1, "n1", partition, "w", 0, 1)


async def test_explained_recorded_once_and_scraped(world: World, ports: Ports) -> None:
    ours, theirs = placement(world, "acme"), placement(world, "globex")
    now = SlowdownNow(ours, 50, (theirs,), 1.1, 1.2, 1.4, 1.3, Basis.PROFILES, True)
    SCRIPT[:] = [now]
    made = Scripted(lambda: (), lambda node: (), None, device_type)  # type: ignore[arg-type]
    slowdowns = Slowdowns(made, world.catalog, world.clock)
    await slowdowns.look()
    await slowdowns.look()
    decisions = [d for d in world.catalog.decisions(ours.model_id) if d.kind == "profile"]
    assert len(decisions) == 1
    assert "partywall profile m" in decisions[0].summary
    (shown,) = slowdowns.of(ours.model_id, ours.tenant_id)
    assert list(shown.neighbours) == ["another tenant's model"]
    assert (shown.predicted, shown.observed, shown.bound) == (1.1, 1.3, 1.4)
    assert slowdowns.of(theirs.model_id, theirs.tenant_id) == []
    family, rests = SlowdownCollector(slowdowns.all_now, Names(world.catalog)).collect()
    assert [s.labels["basis"] for s in rests.samples] == ["profiles"]
    assert {s.labels["kind"]: s.value for s in family.samples} == {"predicted": 1.2, "bound": 1.4, "observed": 1.3}
    assert {s.labels["tenant"] for s in family.samples} == {"acme"}
    SCRIPT[:] = [replace(now, wants_profile=False)]
    await slowdowns.look()
    SCRIPT[:] = [now]
    await slowdowns.look()
    assert len([d for d in world.catalog.decisions(ours.model_id) if d.kind == "profile"]) == 2
