"""What cannot be loaded because its data key cannot be unwrapped: said to the tenant, and to the operator."""

from __future__ import annotations

from collections.abc import Mapping

from partywall.domain.events import EventName
from partywall.errors import PartywallError
from partywall.v1 import agent_link_pb2 as link
from router.control.events import EventLog
from router.control.scene import Scene


class WithheldKeys:
    """Says each case once, and once that it is over."""

    def __init__(self, scene: Scene, events: EventLog) -> None:
        self._scene = scene
        self._events = events
        self._told: dict[str, str] = {}

    async def tell(self, withheld: Mapping[str, PartywallError]) -> None:
        """Writes a decision for `explain` and an event for `fleet events`.

        Raises:
            PartywallError: The store does not answer; the next pass tries again.
        """
        for placement_id in self._told.keys() - withheld.keys():
            await self._decide(placement_id, "can be loaded again: its data key opens")
            del self._told[placement_id]
        for placement_id, error in withheld.items():
            if self._told.get(placement_id) == error.reason.value:
                continue
            await self._decide(placement_id, f"cannot be loaded: {reason_of(error)}")
            self._told[placement_id] = error.reason.value
            placement = self._scene.catalog.placement(placement_id)
            if placement is not None:
                message = f"a data key of tenant {placement.tenant_id} cannot be unwrapped: {error.message}"
                event = link.AgentEvent(kind=EventName.KEY_UNUSABLE, placement_id=placement_id, message=message)
                self._events.note(placement.node, event)

    async def _decide(self, placement_id: str, summary: str) -> None:
        placement = self._scene.catalog.placement(placement_id)
        entry = self._scene.catalog.model_by_id(placement.model_id) if placement is not None else None
        version = entry.versions.get(placement.version) if entry is not None and placement is not None else None
        if entry is not None and version is not None:
            async with self._scene.catalog.transaction() as tx:
                await tx.insert(self._scene.decision(entry, version, "keys", summary))


def reason_of(error: PartywallError) -> str:
    """For the tenant; what is wrong in the key store is the operator's to read."""
    return (
        f"its data key cannot be unwrapped ({error.reason.value}); push the version again, or ask the operator to put "
        "the tenant's key file back (partywall fleet events says what is wrong with it)"
    )
