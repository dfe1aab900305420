"""The router put together from its rooms; `router.app` runs what this builds."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import CollectorRegistry

from isolation.vault.audit import AuditLog
from isolation.vault.keyfile import KeyFileProvider
from isolation.vault.local_blobs import LocalBlobStore
from partywall.clock import Clock, SystemClock
from partywall.domain.profiles import device_type
from router.control.catalog import Catalog
from router.control.coming_back import ComingBack
from router.control.control import Control
from router.control.data_dir import DataDir, check_state, read_admin_digest
from router.control.enrol import Enrolment
from router.control.epoch import next_epoch
from router.control.events import EventLog
from router.control.fits import FOLDER, FitBook, FitCollector
from router.control.follow import Follower, NoAudit
from router.control.housekeeping import Housekeeper, KeyUse
from router.control.identities import load_authority, refresh_local_agent, router_identity
from router.control.kinds import Kind
from router.control.membership import Membership
from router.control.neighbourhood import Neighbourhood
from router.control.pki import Authority
from router.control.profile_book import ProfileBook
from router.control.profile_target import Targets
from router.control.profiles import ProfileJobs
from router.control.reconcile import Reconciler
from router.control.removal import Remover
from router.control.slowdowns import Slowdowns
from router.control.state import Change
from router.control.store import SqlStore
from router.control.uploads import Uploads
from router.faces import Keeper, Names, Routes, every_name
from router.gateway.attempts import Attempts, loop_later
from router.gateway.correction import Corrections
from router.gateway.dispatch import Deadlines, Dispatcher
from router.gateway.journal import Journal
from router.gateway.predictors import Predictors
from router.gateway.shared_throttle import QuotaBook, SharedThrottle
from router.gateway.statistics import NoStatistics, Statistics
from router.gateway.throttle import Limits, Throttle
from router.gateway.waking import Waker
from router.link_identity import LinkIdentity
from router.parts import Parts
from router.planners import live_planner
from router.policy.hedging import HedgeLimits
from router.policy.placement import Operator
from router.policy.routing import RoutingLimits
from router.processes.shared_slowdowns import FollowersSlowdowns, LeadersSlowdowns
from router.processes.siblings import Siblings
from router.residency import Residency
from router.settings import RouterSettings


async def build(settings: RouterSettings) -> Parts:
    """Opens the data directory and puts the parts together; nothing listens yet.

    Raises:
        NotReady: The data directory has not been initialised.
    """
    data = DataDir(settings.data_dir)
    clock = SystemClock()
    admin, rank = read_admin_digest(data), settings.rank
    if rank.leads:
        refresh_local_agent(data, clock)
    check_state(data)
    store = SqlStore.at(data.state)
    await store.open()
    catalog = Catalog(store, shared=not rank.alone)
    await catalog.open()
    keys = KeyFileProvider(data.root_key, data.keys)
    blobs = LocalBlobStore(data.root)
    control = Control(catalog, keys, blobs, AuditLog(data.audit, clock) if rank.leads else NoAudit(), clock)
    membership = Membership(clock, Names(catalog), settings.dead_after_s, shared=not rank.alone)
    operator = Operator(overcommit=settings.overcommit, placing=settings.placing)
    profile_book = ProfileBook(control)
    fit_book = FitBook.open(settings.data_dir / FOLDER)
    predictors = Predictors(fit_book, fit_book.types, fit_book.look)
    profiles = ProfileJobs(control, profile_book, Targets(catalog, membership, operator.floor), predictors.basis)
    registry = CollectorRegistry()
    events = EventLog(catalog, clock, registry)
    corrections = Corrections(
        membership.replica_runtimes,
        membership.devices,
        profile_book,
        device_type,
        predictor=predictors,
        generation=lambda: predictors.generation,
        measuring=profiles.measuring,
    )
    reconciler = None
    if rank.leads:
        reconciler = Reconciler(
            catalog,
            membership,
            keys,
            clock,
            operator,
            events=events,
            swap_bytes=settings.swap_bytes,
            knowledge=Neighbourhood(profile_book, corrections, clock),
        )
    keeper: Keeper = reconciler or Follower(catalog, membership)
    if rank.leads:
        registry.register(FitCollector(fit_book))
        membership.epoch = await next_epoch(catalog)
        membership.generation = max((p.generation for p in catalog.placements()), default=0)
        await profile_book.open()
    routes = Routes(catalog, membership)
    statistics = Statistics(registry) if settings.metrics else NoStatistics(registry)
    routing = RoutingLimits(-(-settings.max_queued_per_replica // rank.count), settings.admission)
    hedging = HedgeLimits(retry=settings.retries, hedge=settings.hedging)
    journal = Journal(clock)
    siblings = Siblings(rank, statistics, registry, journal)
    shared = _shared_slowdowns(siblings, corrections, leads=rank.leads) if not rank.alone else None
    if isinstance(shared, LeadersSlowdowns):
        slowdowns = Slowdowns(corrections, catalog, clock, shared.windows, predictors)
    else:
        slowdowns = Slowdowns(corrections, catalog, clock, predictors=predictors)
    profiles.on_profile(slowdowns.new_profile)
    throttle = _throttle(settings, clock)
    dispatcher = Dispatcher(
        routes,
        throttle,
        statistics,
        routing,
        Deadlines(settings.default_deadline_s, settings.max_deadline_s),
        clock,
        Attempts(hedging, routing, clock, registry, loop_later),
        journal,
        Waker(Residency(control), ready_in_s=ComingBack(membership.replica_runtimes)),
        settings.max_in_flight_bytes // rank.count,
    )
    remover = Remover(control)
    uploads = Uploads(control, remover)
    key_use = KeyUse(control)
    authority = load_authority(data)
    link_address: list[str] = [settings.link_listen]
    enrolment = Enrolment(control, authority, lambda: link_address[0])
    membership.on_change(routes.invalidate)
    membership.on_change(keeper.kick)

    def on_commit(changes: Sequence[Change]) -> None:
        gone = False
        for change in changes:
            if change.kind is Kind.TENANT and catalog.tenant(change.key) is None:
                gone = True
                journal.forget(change.key)
                if throttle is not None:
                    throttle.forget(change.key)
            gone |= change.kind is Kind.MODEL and catalog.model_by_id(change.key) is None
        if gone:
            statistics.prune(every_name(catalog))
        routes.invalidate()
        keeper.kick()

    catalog.subscribe(on_commit)
    return Parts(
        settings,
        clock,
        store,
        catalog,
        control,
        blobs,
        membership,
        keeper,
        reconciler,
        siblings,
        routes,
        dispatcher,
        journal,
        statistics,
        registry,
        remover,
        uploads,
        key_use,
        Housekeeper(control, store, remover, uploads, key_use, leads=rank.leads),
        enrolment,
        authority,
        _link_identity(data, authority, clock, renew=rank.leads),
        admin,
        link_address,
        profile_book,
        profiles,
        slowdowns,
        shared,
        live_planner(settings, reconciler, siblings, profiles.measuring, profile_book),
    )


def _link_identity(data: DataDir, authority: Authority, clock: Clock, *, renew: bool) -> LinkIdentity:
    first = router_identity(data, clock, renew=renew)
    return LinkIdentity(first, lambda: router_identity(data, clock, renew=renew), authority.ca_pem, clock)


def _throttle(settings: RouterSettings, clock: Clock) -> Limits | None:
    rank = settings.rank
    if not settings.throttle:
        return None
    if rank.folder is None:
        return Throttle(clock)
    return SharedThrottle(clock, QuotaBook(rank.folder, rank.index, rank.count))


def _shared_slowdowns(
    siblings: Siblings, corrections: Corrections, *, leads: bool
) -> LeadersSlowdowns | FollowersSlowdowns:
    if leads:
        return LeadersSlowdowns(siblings.ask_others, corrections)
    return FollowersSlowdowns(siblings.ask_leader, corrections.replicas, corrections.policy.period_s)
