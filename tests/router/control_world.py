"""A control plane on simulated sides, and its services behind a real gRPC port."""

from __future__ import annotations

import hashlib
import io
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc

from isolation.vault.keys import MemoryKeyProvider
from isolation.vault.memory_blobs import MemoryBlobStore
from partywall.clock import VirtualClock
from partywall.domain.models import SealedFile
from partywall.errors import PartywallError, Reason, Unavailable
from partywall.sealed import Context, Sealer
from partywall.v1 import fleet_pb2_grpc, models_pb2, models_pb2_grpc, tenants_pb2_grpc
from partywall.wire.convert import sealed_file_to_proto
from partywall.wire.status import from_rpc_error
from router.control.catalog import Catalog
from router.control.control import Control
from router.control.enrol import Enrolment
from router.control.explain import Requests
from router.control.fleet_service import FleetService
from router.control.manoeuvres import Manoeuvres
from router.control.membership import Membership
from router.control.memory import MemoryStore
from router.control.models_service import ModelsService, admin_resolver
from router.control.partitions import Partitions
from router.control.pki import Authority
from router.control.removal import Remover, Step
from router.control.rpc import AdminGuard, ErrorInterceptor, admin_digest
from router.control.scene import Scene
from router.control.tenants_service import TenantsService
from router.control.uploads import Uploads
from router.control.views import NoFleet
from router.gateway.journal import Journal
from router.policy.placement import Operator

ADMIN_KEY = "pwadmin_test"
WEIGHTS = b"not really weights, but some bytes " * 100


class MemoryAudit:
    """Keeps events in a list; `full` makes it behave like a log on a full disk."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, str]]] = []
        self.full = False

    def append(self, event: str, fields: Any) -> str:
        if self.full:
            raise Unavailable("the audit log cannot be written", reason=Reason.STORAGE_FULL)
        self.events.append((event, dict(fields)))
        return ""

    @property
    def names(self) -> list[str]:
        return [event for event, _ in self.events]


@dataclass
class World:
    """Everything of one installation but the ports."""

    store: MemoryStore = field(default_factory=MemoryStore)
    clock: VirtualClock = field(default_factory=VirtualClock)
    keys: MemoryKeyProvider = field(default_factory=MemoryKeyProvider)
    audit: MemoryAudit = field(default_factory=MemoryAudit)
    fleet: NoFleet = field(default_factory=NoFleet)
    reached: Callable[[Step], None] = lambda step: None
    journal: Journal = field(default=None)  # type: ignore[assignment]
    blobs: MemoryBlobStore = field(default=None)  # type: ignore[assignment]

    def __post_init__(self) -> None:
        self.blobs = self.blobs or MemoryBlobStore(clock=self.clock)
        self.journal = self.journal or Journal(self.clock)

    async def start(self) -> World:
        """Opens the catalog; may be called again, as a restart does."""
        self.catalog = Catalog(self.store)
        await self.catalog.open()
        self.control = Control(self.catalog, self.keys, self.blobs, self.audit, self.clock)
        self.remover = Remover(self.control, reached=lambda step: self.reached(step))
        self.uploads = Uploads(self.control, self.remover)
        self.authority = Authority.create(self.clock.now())
        self.enrolment = Enrolment(self.control, self.authority, lambda: "127.0.0.1:1")
        return self


@dataclass
class Ports:
    """Stubs of the admin port, with the operator's credential."""

    tenants: Any
    models: Any
    fleet: Any

    def as_tenant(self, name: str) -> list[tuple[str, str]]:
        return [*ADMIN, ("x-partywall-tenant", name)]


ADMIN = [("authorization", f"Bearer {ADMIN_KEY}")]


class Ids:
    """Names are ids here."""

    def tenant_name(self, tenant_id: str) -> str:
        return tenant_id

    def model_name(self, model_id: str) -> str:
        return model_id


def fleet_service(world: World) -> FleetService:
    scene = Scene(world.catalog, Membership(world.clock, Ids(), 3.0), world.clock, Operator())
    return FleetService(world.control, world.fleet, world.enrolment, scene, Partitions(scene, Manoeuvres(scene)))


@asynccontextmanager
async def admin_port(world: World) -> AsyncIterator[Ports]:
    """The admin services on a free loopback port."""
    server = grpc.aio.server(interceptors=[ErrorInterceptor(), AdminGuard(admin_digest(ADMIN_KEY))])
    resolver = admin_resolver(world.catalog)
    requests = Requests(world.journal)
    models = ModelsService(world.control, world.uploads, world.remover, world.fleet, resolver, requests)
    tenants_pb2_grpc.add_TenantsServicer_to_server(TenantsService(world.control, world.remover), server)
    models_pb2_grpc.add_ModelsServicer_to_server(models, server)
    fleet_pb2_grpc.add_FleetServicer_to_server(fleet_service(world), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield Ports(
                tenants_pb2_grpc.TenantsStub(channel),
                models_pb2_grpc.ModelsStub(channel),
                fleet_pb2_grpc.FleetStub(channel),
            )
    finally:
        await server.stop(None)


async def refused(call: Any) -> PartywallError:
    """The typed error that a call ends with."""
    try:
        await call
    except grpc.RpcError as failure:
        return from_rpc_error(failure)
    raise AssertionError("the call went through")


@dataclass(frozen=True)
class Sealed:
    """A file as it travels."""

    data: bytes
    declaration: SealedFile


def seal(begun: Any, model: str, name: str, plain: bytes) -> Sealed:
    """Seals as the pushing side does."""
    context = Context(begun.tenant_id, model, begun.version, name)
    sealer = Sealer(len(plain), begun.data_key, context, begun.key_record_id)
    data = b"".join(bytes(part) for part in sealer.stream(io.BytesIO(plain)))
    head, whole = hashlib.sha256(data[:128]).digest(), hashlib.sha256(data).digest()
    return Sealed(data, SealedFile(name, len(plain), len(data), head, whole))


def chunks(upload_id: str, name: str, data: bytes, offset: int = 0, size: int = 1000) -> Iterator[Any]:
    """Upload messages; the first one names the file."""
    first = {"upload_id": upload_id, "file": name, "offset": offset}
    for start in range(offset, max(len(data), offset + 1), size):
        yield models_pb2.UploadChunk(**first, data=data[start : start + size])
        first = {}


def begin_request(model: str, files: dict[str, bytes], engine: str = "module", **manifest: Any) -> Any:
    if engine == "module":
        manifest.setdefault("options", {"architecture": "mlp"})
    return models_pb2.BeginVersionRequest(
        model=model,
        manifest=models_pb2.Manifest(engine=engine, slo_ms=50, **manifest),
        files=[models_pb2.FileDeclaration(name=name, plain_size=len(data)) for name, data in files.items()],
    )


async def push(
    ports: Ports, tenant: str, model: str, files: dict[str, bytes] | None = None, *, promote: bool = False
) -> Any:
    """A whole push through the wire; answers the model."""
    files = {"weights.safetensors": WEIGHTS} if files is None else files
    who = ports.as_tenant(tenant)
    begun = await ports.models.BeginVersion(begin_request(model, files), metadata=who)
    sealed = {name: seal(begun, model, name, data) for name, data in files.items()}
    for name, file in sealed.items():
        await ports.models.UploadFile(chunks(begun.upload_id, name, file.data), metadata=who)
    declared = [sealed_file_to_proto(file.declaration) for file in sealed.values()]
    commit = models_pb2.CommitVersionRequest(upload_id=begun.upload_id, files=declared, promote=promote)
    return await ports.models.CommitVersion(commit, metadata=who)
