"""What each agent shall have standing: made from the catalog, sent whole whenever it differs from the last one sent."""

from __future__ import annotations

import structlog

from isolation.vault.keys import KeyProvider
from partywall.domain.placements import Placement
from partywall.errors import PartywallError
from partywall.v1 import agent_link_pb2 as link
from partywall.wire import convert
from router.control.catalog import Catalog
from router.control.membership import Membership
from router.control.specs import data_key_of, version_spec
from router.gateway.link import AgentSession

log = structlog.get_logger(__name__)


class DesiredState:
    """Remembers per session what was sent. Data keys are unwrapped here and go out over mTLS only."""

    def __init__(self, catalog: Catalog, membership: Membership, keys: KeyProvider) -> None:
        self._catalog = catalog
        self._membership = membership
        self._keys = keys
        self._sent: dict[str, tuple[AgentSession, tuple[tuple[str, int, bool], ...]]] = {}

    def send(self) -> None:
        """Sends to every live session whose desired set changed, or that is new."""
        for session in list(self._membership.sessions()):
            mine = sorted((p for p in self._catalog.placements() if p.node == session.node), key=lambda p: p.id)
            mark = tuple((p.id, self._membership.replicas_by_id[p.id].handle, p.parked) for p in mine)
            known = self._sent.get(session.node)
            if known is not None and known[0] is session and known[1] == mark:
                continue
            specs = [spec for p in mine if (spec := self._spec(p)) is not None]
            session.send_desired(
                link.Desired(epoch=self._membership.epoch, generation=self._membership.generation, placements=specs)
            )
            self._sent[session.node] = (session, mark)

    def _spec(self, placement: Placement) -> link.PlacementSpec | None:
        entry = self._catalog.model_by_id(placement.model_id)
        version = entry.versions.get(placement.version) if entry else None
        tenant = self._catalog.tenant(placement.tenant_id)
        if entry is None or version is None or tenant is None:
            return None
        try:
            key = data_key_of(self._catalog, self._keys, tenant, version)
        except PartywallError as error:
            log.warning("data key cannot be unwrapped", placement=placement.id, why=error.message)
            return None
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
