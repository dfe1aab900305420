"""What the control plane stores beside the domain's own values."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from partywall.domain.models import Manifest


@dataclass(frozen=True, slots=True)
class DeclaredFile:
    """A file announced at the push; sizes in bytes, in clear and sealed."""

    name: str
    plain_size: int
    sealed_size: int


def upload_id_of(artifact_id: str) -> str:
    """The id of the upload that becomes this artifact: a commit whose answer was lost finds its version by it."""
    return f"u-{artifact_id}"


@dataclass(frozen=True, slots=True)
class Upload:
    """A version that is still arriving; invisible to its tenant's models until it is committed."""

    id: str
    tenant_id: str
    model: str
    version: int
    artifact_id: str
    manifest: Manifest
    files: tuple[DeclaredFile, ...]
    key_record_id: str
    created_at: datetime
    rev: int = 0

    @property
    def plain_bytes(self) -> int:
        return sum(f.plain_size for f in self.files)

    def file(self, name: str) -> DeclaredFile | None:
        """The declared file of that name."""
        return next((f for f in self.files if f.name == name), None)


@dataclass(frozen=True, slots=True)
class DataKeyRecord:
    """An artifact's data key, wrapped by its tenant's key: worthless once the tenant is shredded."""

    id: str
    tenant_id: str
    artifact_id: str
    wrapped: bytes
    created_at: datetime
    rev: int = 0


@dataclass(frozen=True, slots=True)
class SealedProfile:
    """What is known of a version's cost on one type of device, sealed with a key derived from its data key."""

    model_id: str
    version: int
    device: str
    sealed: bytes
    updated_at: datetime
    rev: int = 0


@dataclass(frozen=True, slots=True)
class VersionCounter:
    """The highest version number ever given under a name: numbers are not reused, not even after a delete."""

    tenant_id: str
    model: str
    last: int
    rev: int = 0


@dataclass(frozen=True, slots=True)
class JoinToken:
    """The right to enrol one node once; only the secret's SHA-256 is kept."""

    id: str
    node: str
    digest: bytes
    expires_at: datetime
    used_at: datetime | None = None
    rev: int = 0


@dataclass(frozen=True, slots=True)
class Deletion:
    """The intent to delete a tenant, written before its keys are destroyed, so that a restart can finish it."""

    tenant_id: str
    name: str
    requested_at: datetime
    rev: int = 0


@dataclass(frozen=True, slots=True)
class Garbage:
    """Stored bytes of an artifact, or of its upload, whose rows are gone: listed with their removal, dropped after."""

    id: str
    rev: int = 0


@dataclass(frozen=True, slots=True)
class MetaEntry:
    """One fact about the installation (schema of the data directory, leader epoch)."""

    name: str
    value: str
    rev: int = 0
