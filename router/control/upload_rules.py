"""What an upload must hold to: what was announced, and what the tenant may store."""

from __future__ import annotations

from collections.abc import Sequence

from partywall.domain.models import SealedFile
from partywall.domain.tenants import Tenant
from partywall.errors import ArtifactRefused, InvalidInput
from router.control.catalog import Catalog, ModelEntry
from router.control.records import DeclaredFile, Upload, upload_id_of

SHA256_BYTES = 32


def model_bytes_used(catalog: Catalog, tenant_id: str) -> int:
    """Bytes in clear of all versions of a tenant."""
    return sum(version.plain_bytes for entry in catalog.models(tenant_id) for version in entry.versions.values())


def committed(catalog: Catalog, tenant: Tenant, upload_id: str) -> ModelEntry | None:
    """The model whose version an upload has become; None: it has not."""
    for entry in catalog.models(tenant.id):
        if any(upload_id_of(version.artifact_id) == upload_id for version in entry.versions.values()):
            return entry
    return None


def announced(upload: Upload, name: str) -> DeclaredFile:
    """The file as it was announced.

    Raises:
        InvalidInput: It was not.
    """
    file = upload.file(name)
    if file is None:
        known = ", ".join(one.name for one in upload.files) or "none"
        raise InvalidInput(
            f"file {name[:160]!r} was not announced in BeginVersion; announced: {known}", fields={"field": "file"}
        )
    return file


def too_long(file: DeclaredFile) -> InvalidInput:
    """More bytes came than were announced."""
    return InvalidInput(
        f"file {file.name!r} was announced with {file.plain_size} bytes, {file.sealed_size} sealed, and more came; "
        "push again with the right size",
        fields={"field": "data", "file": file.name, "sealed_size": str(file.sealed_size)},
    )


def check_declared(upload: Upload, files: Sequence[SealedFile]) -> None:
    """The files that are committed are those that were announced.

    Raises:
        ArtifactRefused: One is missing, unknown, named twice or of another size.
        InvalidInput: A digest is missing.
    """
    announced = {(file.name, file.plain_size, file.sealed_size) for file in upload.files}
    sealed = [(file.name, file.plain_size, file.sealed_size) for file in files]
    differing = sorted(announced ^ set(sealed)) or [one for one in sealed if sealed.count(one) > 1]
    if differing:
        raise ArtifactRefused(
            f"files are not those of BeginVersion: file {differing[0][0]!r} is missing, unknown, named twice or of "
            "another size; push again",
            fields={"field": "files", "file": differing[0][0]},
        )
    for file in files:
        if len(file.header_sha256) != SHA256_BYTES or len(file.sealed_sha256) != SHA256_BYTES:
            raise InvalidInput(
                f"file {file.name!r} needs header_sha256 and sealed_sha256 of {SHA256_BYTES} bytes each",
                fields={"field": "files", "file": file.name},
            )
