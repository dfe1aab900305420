"""Profile jobs: which agent measures which version, how far it is, and what becomes of what it measured."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from isolation.interference.model import Basis
from partywall.domain.models import Version
from partywall.domain.profiles import Profile, device_type
from partywall.domain.tenants import Tenant
from partywall.errors import NotReady, PartywallError, PermissionDenied, Reason
from partywall.v1 import agent_link_pb2 as link
from partywall.v1 import profiles_pb2 as pb
from partywall.wire import convert
from router.control.catalog import ModelEntry
from router.control.control import Control, in_thread, require_model
from router.control.profile_book import ProfileBook
from router.control.profile_target import Target, Targets
from router.control.removal import require_version
from router.control.specs import data_key_of, version_spec
from router.gateway.link import AgentSession
from router.gateway.predictors import Predictors

log = structlog.get_logger(__name__)

WATCH_S = 0.5
"""How often running jobs are held against what is served beside them."""
Subject = tuple[str, int]
"""(model id, version)"""


@dataclass(slots=True)
class _Job:
    """A job that runs or ran; the last one of each version is kept for whoever asks."""

    id: str
    tenant: Tenant
    version: Version
    target: Target
    operator: bool
    status: pb.ProfileJobStatus = field(default_factory=lambda: pb.ProfileJobStatus(state=pb.PROFILE_STATE_RUNNING))

    @property
    def session(self) -> AgentSession:
        return self.target.session

    @property
    def running(self) -> bool:
        return self.status.state == pb.PROFILE_STATE_RUNNING


BasisOf = Callable[[Profile], tuple[Basis, str]]


class ProfileJobs:
    """Starts, follows and ends jobs. `run` writes what they measure, in order, until it is cancelled."""

    def __init__(self, control: Control, book: ProfileBook, targets: Targets, basis: BasisOf | None = None) -> None:
        """Args: `basis` says what predictions about a profile rest on."""
        self._basis = basis or Predictors().basis
        self._control = control
        self._book = book
        self._targets = targets
        self._jobs: dict[Subject, _Job] = {}
        self._by_id: dict[str, _Job] = {}
        self._arrived: asyncio.Queue[tuple[str, link.ProfileProgress]] = asyncio.Queue()
        self._listeners: list[Callable[[Version], None]] = []

    def on_profile(self, listener: Callable[[Version], None]) -> None:
        """Called with a version whose profile was finished."""
        self._listeners.append(listener)

    async def start(self, tenant: Tenant, request: pb.ProfileModelRequest, *, operator: bool) -> pb.GetProfileResponse:
        """Starts a job, or joins the one that runs.

        Raises:
            NotFound: No such model, version or node.
            PermissionDenied: A tenant named a node, or trust forbids it.
            NotReady: The device is busy, or the version stands nowhere. `anyway` measures on a busy device all the
                same, but only the operator's does where other tenants are served.
        """
        if request.node and not operator:
            raise PermissionDenied("only the operator names a node (--node); without it the version's own is taken")
        entry, version = self._find(tenant, request.name, request.version)
        job = self._jobs.get((entry.model.id, version.number))
        if job is not None and job.running and not job.session.closed:
            return self._answer(entry, version)
        target = self._targets.choose(tenant, entry, version, request.node)
        anyway = request.settings.anyway
        if not (anyway and operator):
            now_s = self._control.clock.monotonic()
            busy = self._targets.busy(target, now_s, tenant, operator=operator, others_only=anyway)
            if busy:
                raise _busy(busy, anyway=anyway)
        message = await self._message(tenant, entry, version, target, request.settings)
        job = _Job(message.id, tenant, version, target, operator and anyway)
        catalog = self._control.catalog
        # Jobs of models that are gone have nobody who could ask for them.
        self._jobs = {s: j for s, j in self._jobs.items() if j.running or catalog.model_by_id(s[0]) is not None}
        self._jobs[entry.model.id, version.number] = job
        self._by_id = {j.id: j for j in self._jobs.values()}
        target.session.send_profile_job(message)
        await self._control.record("profile.started", tenant.id, model=entry.model.name, version=version.number)
        return self._answer(entry, version)

    def show(self, tenant: Tenant, name: str, number: int) -> pb.GetProfileResponse:
        """What is known of a version, and the job of it.

        Raises:
            NotFound: No such model or version.
        """
        return self._answer(*self._find(tenant, name, number))

    def cancel(self, tenant: Tenant, name: str, number: int) -> pb.GetProfileResponse:
        """Ends the job that runs; finished runs are kept. Without a job nothing happens."""
        entry, version = self._find(tenant, name, number)
        job = self._jobs.get((entry.model.id, version.number))
        if job is not None and job.running:
            job.session.cancel_profile_job(job.id)
            _fail(job, Reason.CANCELLED, "cancelled; profile again to go on from here")
        return self._answer(entry, version)

    def on_progress(self, node: str, progress: link.ProfileProgress) -> None:
        """Takes an agent's progress; what it measured is written by `run`."""
        job = self._by_id.get(progress.id)
        if job is not None and job.running and job.session.node == node:
            self._arrived.put_nowait((node, progress))

    async def run(self) -> None:
        """Also ends jobs that stand in the way of other tenants' requests, which came after them."""
        while True:
            try:
                async with asyncio.timeout(WATCH_S):
                    _, progress = await self._arrived.get()
            except TimeoutError:
                self.make_way()
                continue
            job = self._by_id.get(progress.id)
            if job is not None and job.running:
                await self._take(job, progress)
            self.make_way()

    def make_way(self) -> None:
        """Ends jobs on devices where another tenant is served now, unless the operator wanted them anyway."""
        now_s = self._control.clock.monotonic()
        for job in self._jobs.values():
            if not job.running or job.operator:
                continue
            busy = self._targets.busy(job.target, now_s, job.tenant, others_only=True)
            if busy:
                job.session.cancel_profile_job(job.id)
                _fail(job, Reason.WRONG_STATE, f"made way for {busy}; profile again to go on from here")

    def measuring(self, node: str) -> bool:
        """Whether a job runs there: what is served beside it is not what it usually is."""
        return any(job.running and job.session.node == node for job in self._jobs.values())

    async def _take(self, job: _Job, progress: link.ProfileProgress) -> None:
        if progress.HasField("error"):
            error = convert.error_from_proto(progress.error)
            _fail(job, error.reason, error.message)
            return
        try:
            if progress.HasField("record"):
                progress.record.node = job.session.node
                await self._book.put(job.version, progress.record)
        except PartywallError as error:
            job.session.cancel_profile_job(job.id)
            _fail(job, error.reason, f"what was measured cannot be kept: {error.message}")
            return
        job.status.done, job.status.total, job.status.label = progress.done, progress.total, progress.label
        if progress.record.HasField("profile"):
            job.status.state = pb.PROFILE_STATE_DONE
            log.info("profile measured", model=job.version.model_id, version=job.version.number)
            for listener in self._listeners:
                listener(job.version)

    def _find(self, tenant: Tenant, name: str, number: int) -> tuple[ModelEntry, Version]:
        entry = require_model(self._control.catalog, tenant, name)
        if not number and entry.live is not None:
            return entry, entry.live
        return entry, require_version(entry, number or max(entry.versions, default=0))

    def _answer(self, entry: ModelEntry, version: Version) -> pb.GetProfileResponse:
        job = self._jobs.get((entry.model.id, version.number))
        if job is not None and job.running and job.session.closed:
            _fail(job, Reason.AGENT_LOST, "the machine that measured went away; profile again to go on from here")
        return pb.GetProfileResponse(
            version=version.number,
            records=self._book.records(entry.model.id, version.number),
            basis=self._bases(entry.model.id, version.number),
            job=job.status if job is not None else None,
        )

    def _bases(self, model_id: str, number: int) -> list[pb.PredictionBasis]:
        """What predictions rest on where the version was measured."""
        found = []
        for record in self._book.records(model_id, number):
            profile = self._book.profile(model_id, number, record.device_type)
            if profile is not None:
                basis, why = self._basis(profile)
                found.append(pb.PredictionBasis(device_type=record.device_type, basis=basis.value, reason=why))
        return found

    async def _message(
        self, tenant: Tenant, entry: ModelEntry, version: Version, target: Target, settings: pb.ProfileSettings
    ) -> link.ProfileJob:
        control = self._control
        key = await in_thread(data_key_of, control.catalog, control.keys, tenant, version)
        spec = version_spec(tenant, entry.model.name, version, key)
        spec.partition.CopyFrom(convert.partition_to_proto(target.partition))
        records = self._book.records(entry.model.id, version.number)
        return link.ProfileJob(
            id=secrets.token_hex(6),
            spec=spec,
            settings=settings,
            known=self._book.probe_runs(device_type(target.device), quick=settings.quick),
            earlier=next((r for r in records if not r.HasField("profile") and r.node == target.session.node), None),
        )


def _busy(who: str, *, anyway: bool) -> NotReady:
    step = "or ask the operator to profile it anyway" if anyway else "or profile with --anyway"
    return NotReady(
        f"the device is busy serving {who}; wait until it is idle, {step}",
        reason=Reason.WRONG_STATE,
        fields={"busy": who},
    )


def _fail(job: _Job, reason: Reason, message: str) -> None:
    job.status.state = pb.PROFILE_STATE_FAILED
    job.status.reason, job.status.message = reason.value, message
