"""The operator's hand on partitions: what there are, and another size or place for one of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from partywall.domain.fleet import Partition
from partywall.domain.placements import Decision, Placement, ShareBy
from partywall.errors import InvalidInput, NotFound, NotReady, Reason
from router.control.manoeuvres import Manoeuvres
from router.control.scene import Scene, new_id, want_of
from router.policy.placement import NoPlace
from router.policy.retarget import Change, Member, Target, retarget


@dataclass(frozen=True, slots=True)
class Use:
    """A partition on a node with the placements in it."""

    node: str
    partition: Partition
    placements: tuple[Placement, ...]

    @property
    def memory_bytes(self) -> int:
        return sum(p.memory_bytes for p in self.placements)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a change comes to; without decisions it was only looked at.

    `released`: parked placements of the partition, whose weights do not go along.
    """

    use: Use
    target: Target
    released: tuple[Placement, ...] = ()
    decisions: tuple[Decision, ...] = ()


class Partitions:
    """Lists and changes partitions. A change is a manoeuvre: nothing in it is lost or refused on its way."""

    def __init__(self, scene: Scene, manoeuvres: Manoeuvres) -> None:
        self._scene = scene
        self._manoeuvres = manoeuvres

    def uses(self) -> list[Use]:
        """All partitions that hold a placement, by node and device."""
        held: dict[tuple[str, str], list[Placement]] = {}
        for placement in self._scene.catalog.placements():
            if placement.parked:
                continue  # it serves nothing: nothing of it has to be taken along
            held.setdefault((placement.node, placement.partition.id), []).append(placement)
        uses = [Use(node, placed[0].partition, tuple(placed)) for (node, _), placed in held.items()]
        return sorted(uses, key=lambda use: (use.node, use.partition.device_id, use.partition.id))

    def find(self, name: str) -> Use:
        """The partition of an id, of a placement's id, or of `tenant/model`.

        Raises:
            NotFound: There is none.
            InvalidInput: The model stands in several partitions.
        """
        found = [use for use in self.uses() if self._matches(use, name)]
        if not found:
            raise NotFound(
                f"partition {name[:160]!r} is not there; `partywall partitions list` shows them",
                fields={"field": "partition"},
            )
        if len(found) > 1:
            ids = ", ".join(use.partition.id for use in found)
            raise InvalidInput(
                f"{name!r} stands in several partitions; name one of {ids}", fields={"field": "partition"}
            )
        return found[0]

    async def change(self, name: str, change: Change, *, dry_run: bool) -> Outcome:
        """Looks for the new place and, unless `dry_run`, begins the manoeuvre.

        Raises:
            InvalidInput: The change is none, or out of range.
            NotFound: No such partition.
            NotReady: It cannot be done now; the message says why.
        """
        check_change(change)
        use = self.find(name)
        if not (change.share_percent or change.cores or change.device_id) and change.node == use.node:
            raise InvalidInput(f"partition {use.partition.id} is on {use.node} already", fields={"field": "node"})
        scene = self._scene
        target = retarget(
            change,
            use.partition,
            use.node,
            self._members(use.placements),
            scene.nodes(),
            scene.standings(),
            scene.operator,
            new_id,
        )
        if isinstance(target, NoPlace):
            raise NotReady(
                f"partition {use.partition.id} stays as it is: {target.reason}",
                reason=Reason.NO_PLACE,
                fields={"partition": use.partition.id},
            )
        if target.node == use.node and _same(target.partition, use.partition):
            raise InvalidInput(
                f"partition {use.partition.id} has that size already ({_size(use.partition)})",
                fields={"field": "share_percent"},
            )
        released = tuple(self._manoeuvres.left_behind(use.placements))
        if dry_run:
            return Outcome(use, target, released)
        why = f"the operator asks for {_size(target.partition)} on {target.node}"
        moves = list(zip(use.placements, target.chosen, strict=True))
        asked = ShareBy.OPERATOR if change.share_percent or change.cores else None
        decisions = await self._manoeuvres.start_together(moves, why, target.alternatives, share_by=asked)
        return Outcome(use, target, released, tuple(decisions))

    async def release(self, name: str) -> Use:
        """Leaves a partition's size to the planner again.

        Raises:
            NotFound: No such partition.
            InvalidInput: A version in it asks for a share itself.
        """
        use, scene = self.find(name), self._scene
        for placement in use.placements:
            version = scene.version(placement)
            if version is not None and version.manifest.share_percent:
                raise InvalidInput(
                    f"partition {use.partition.id} has the share that its version was pushed with (--share "
                    f"{version.manifest.share_percent}); push one without to leave it to the planner",
                    fields={"field": "automatic"},
                )
        async with scene.catalog.transaction() as tx:
            for placement in use.placements:
                await tx.update(replace(placement, share_by=ShareBy.PLANNER))
        return self.find(use.partition.id)

    def _members(self, placements: Sequence[Placement]) -> list[Member]:
        members = []
        for placement in placements:
            tenant = self._scene.catalog.tenant(placement.tenant_id)
            entry, version = self._scene.catalog.model_by_id(placement.model_id), self._scene.version(placement)
            standing = self._scene.standing(placement)
            if tenant is None or entry is None or version is None or standing is None:
                raise NotReady(f"placement {placement.id} is on its way out; look again", reason=Reason.WRONG_STATE)
            members.append(Member(standing, want_of(tenant, entry, version)))
        return members

    def _matches(self, use: Use, name: str) -> bool:
        if name == use.partition.id or any(name == p.id for p in use.placements):
            return True
        # A partition that is still taking over is named by its id only.
        return any(name == self._model(p) for p in use.placements if not p.replaces)

    def _model(self, placement: Placement) -> str:
        tenant = self._scene.catalog.tenant(placement.tenant_id)
        entry = self._scene.catalog.model_by_id(placement.model_id)
        return f"{tenant.name}/{entry.model.name}" if tenant is not None and entry is not None else ""


def chooser(use: Use) -> ShareBy:
    """Who chose a partition's size: the operator if for anybody in it."""
    said = {p.share_by for p in use.placements}
    return next((who for who in (ShareBy.OPERATOR, ShareBy.PLANNER) if who in said), ShareBy.DEFAULT)


def check_change(change: Change) -> None:
    """Raises `InvalidInput` for a change that can never be made."""
    if not 0 <= change.share_percent <= 100:
        raise InvalidInput(
            f"share_percent must be 1 to 100, got {change.share_percent}", fields={"field": "share_percent"}
        )
    if change.share_percent and change.cores:
        raise InvalidInput("give share_percent or cores, not both", fields={"field": "cores"})
    if not (change.share_percent or change.cores or change.node or change.device_id):
        raise InvalidInput(
            "nothing is asked for; give share_percent, cores, node or device_id", fields={"field": "share_percent"}
        )


def trust_lines(scene: Scene, target: Target) -> list[str]:
    """What the rule cleared, for the operator: each neighbour with the wall between."""
    walls = {pair for chosen in target.chosen for pair in chosen.clearance.walls}
    names = {tenant.id: tenant.name for tenant in scene.catalog.tenants()}
    own = {chosen.clearance.tenant_id for chosen in target.chosen}
    return [
        f"{names.get(tenant, tenant)}: {wall.name.lower().replace('_', ' ')}"
        for tenant, wall in sorted(walls)
        if tenant not in own
    ]


def _same(one: Partition, other: Partition) -> bool:
    return (one.kind, one.device_id, len(one.cores), one.share_percent) == (
        other.kind,
        other.device_id,
        len(other.cores),
        other.share_percent,
    )


def _size(partition: Partition) -> str:
    if partition.cores:
        return f"{len(partition.cores)} core(s), {partition.share_percent} %"
    return f"{partition.kind.value}, {partition.share_percent} %"
