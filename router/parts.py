"""What one router process works with."""

from __future__ import annotations

from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from isolation.vault.local_blobs import LocalBlobStore
from partywall.clock import Clock
from router.control.catalog import Catalog
from router.control.control import Control
from router.control.enrol import Enrolment
from router.control.housekeeping import Housekeeper, KeyUse
from router.control.membership import Membership
from router.control.pki import Authority
from router.control.planning import LivePlanner
from router.control.profile_book import ProfileBook
from router.control.profiles import ProfileJobs
from router.control.reconcile import Reconciler
from router.control.removal import Remover
from router.control.slowdowns import Slowdowns
from router.control.store import SqlStore
from router.control.uploads import Uploads
from router.faces import Keeper, Routes
from router.gateway.dispatch import Dispatcher
from router.gateway.journal import Journal
from router.gateway.statistics import Statistics
from router.link_identity import LinkIdentity
from router.processes.shared_slowdowns import FollowersSlowdowns, LeadersSlowdowns
from router.processes.siblings import Siblings
from router.settings import RouterSettings


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything one router process works with."""

    settings: RouterSettings
    clock: Clock
    store: SqlStore
    catalog: Catalog
    control: Control
    blobs: LocalBlobStore
    membership: Membership
    keeper: Keeper
    reconciler: Reconciler | None
    """The keeper of the leading process; None in the others."""
    siblings: Siblings
    routes: Routes
    dispatcher: Dispatcher
    journal: Journal
    statistics: Statistics
    registry: CollectorRegistry
    remover: Remover
    uploads: Uploads
    key_use: KeyUse
    housekeeper: Housekeeper
    enrolment: Enrolment
    authority: Authority
    link_identity: LinkIdentity
    admin_digest: bytes
    link_address: list[str]
    profile_book: ProfileBook
    profiles: ProfileJobs
    slowdowns: Slowdowns
    shared_slowdowns: LeadersSlowdowns | FollowersSlowdowns | None
    """None in a router of one process."""
    planner: LivePlanner | None
    """None where it does not lead, or counts no requests (--no-metrics)."""
