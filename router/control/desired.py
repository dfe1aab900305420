"""What each agent shall have standing: made from the catalog, sent whole whenever it differs from the last one sent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import structlog

from isolation.vault.keys import KeyProvider
from partywall.clock import Clock
from partywall.domain.placements import Placement
from partywall.errors import PartywallError
from partywall.v1 import agent_link_pb2 as link
from partywall.v1 import fleet_pb2
from partywall.wire import convert
from router.control.catalog import Catalog
from router.control.membership import Membership
from router.control.specs import data_key_of, version_spec
from router.gateway.link import AgentSession

log = structlog.get_logger(__name__)


RETRY_S = 10.0
"""Between tries to unwrap a data key that could not be unwrapped."""


@dataclass(frozen=True, slots=True)
class _Sent:
    """The last word to one session."""

    session: AgentSession
    mark: tuple[tuple[str, int, bool], ...]
    withheld: Mapping[str, PartywallError]
    at_s: float


class DesiredState:
    """Remembers per session what was sent. Data keys are unwrapped here and go out over mTLS only."""

    def __init__(self, catalog: Catalog, membership: Membership, keys: KeyProvider, clock: Clock) -> None:
        self._catalog = catalog
        self._membership = membership
        self._keys = keys
        self._clock = clock
        self._sent: dict[str, _Sent] = {}

    @property
    def withheld(self) -> dict[str, PartywallError]:
        """Why placements' data keys cannot be unwrapped, by placement; the agents that are here do not load them."""
        return {placement_id: error for sent in self._sent.values() for placement_id, error in sent.withheld.items()}

    def send(self) -> None:
        """Sends to every live session whose desired set changed, or that is new."""
        sessions, now_s = {s.node: s for s in self._membership.sessions()}, self._clock.monotonic()
        for gone in self._sent.keys() - sessions.keys():
            del self._sent[gone]
        for node, session in sessions.items():
            mine = sorted((p for p in self._catalog.placements() if p.node == node), key=lambda p: p.id)
            mark = tuple((p.id, self._membership.replicas_by_id[p.id].handle, p.parked) for p in mine)
            known = self._sent.get(node)
            same = known is not None and known.session is session and known.mark == mark
            if same and known is not None and (not known.withheld or now_s - known.at_s < RETRY_S):
                continue
            withheld: dict[str, PartywallError] = {}
            specs = [spec for p in mine if (spec := self._spec(p, session, withheld)) is not None]
            self._sent[node] = _Sent(session, mark, withheld, now_s)
            if same and known is not None and known.withheld.keys() == withheld.keys():
                continue
            session.send_desired(
                link.Desired(epoch=self._membership.epoch, generation=self._membership.generation, placements=specs)
            )

    def _spec(
        self, placement: Placement, session: AgentSession, withheld: dict[str, PartywallError]
    ) -> link.PlacementSpec | None:
        entry = self._catalog.model_by_id(placement.model_id)
        version = entry.versions.get(placement.version) if entry else None
        tenant = self._catalog.tenant(placement.tenant_id)
        if entry is None or version is None or tenant is None:
            return None
        try:
            key = data_key_of(self._catalog, self._keys, tenant, version)
        except PartywallError as error:
            log.warning("data key cannot be unwrapped", placement=placement.id, why=error.message)
            withheld[placement.id] = error
            standing = session.observed.get(placement.id)
            if standing is None or standing.state != fleet_pb2.REPLICA_STATE_READY:
                return None
            # What serves goes on serving: the agent keeps the key that it was given before.
            key = b""
        replica = self._membership.replicas_by_id[placement.id]
        replica.weight = tenant.quota.weight
        spec = version_spec(tenant, entry.model.name, version, key)
        spec.placement_id, spec.handle, spec.worker_id = placement.id, replica.handle, placement.worker_id
        spec.partition.CopyFrom(convert.partition_to_proto(placement.partition))
        spec.parked, spec.weight = placement.parked, tenant.quota.weight
        spec.replaces_partition = self._replaced(placement)
        return spec

    def _replaced(self, placement: Placement) -> str:
        """The partition on the same node that a placement takes over from."""
        old = self._catalog.placement(placement.replaces) if placement.replaces else None
        return old.partition.id if old is not None and old.node == placement.node else ""
