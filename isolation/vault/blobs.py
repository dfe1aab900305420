"""Sealed files at rest: uploads that still arrive, and artifacts that are whole.

A store holds ciphertext only, and checks that it does: what is committed must start with a sealed header and have the
sizes and digests that the pushing side declared. Between `append` and `commit` nothing of an upload is visible.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from partywall.domain.models import SealedFile
from partywall.domain.names import check_file_name
from partywall.errors import ArtifactRefused, Conflict, DataLoss, InvalidInput, NotFound
from partywall.sealed.format import HEADER_BYTES, parse_header, sealed_size


@dataclass(frozen=True, slots=True)
class SweepReport:
    """What a sweep removed."""

    artifacts: tuple[str, ...]
    uploads: tuple[str, ...]
    bytes_removed: int


class BlobStore(Protocol):
    """Keeps sealed files. Ids and file names that could leave the store's folder are InvalidInput everywhere."""

    async def append(self, upload_id: str, file: str, offset: int, data: bytes | memoryview) -> int:
        """Adds bytes to a file of an upload; returns how many it has now. The first append makes the upload.

        Raises:
            Conflict: `offset` is not what is there; `fields["received"]` says what is.
            Unavailable: STORAGE_FULL or STORE_UNAVAILABLE; the file has what it had before.
        """
        ...

    async def received(self, upload_id: str, file: str) -> int:
        """Bytes of a file of an upload; 0 when nothing came."""
        ...

    async def commit(self, upload_id: str, artifact_id: str, files: Sequence[SealedFile]) -> None:
        """Makes an upload the artifact, durably: all of it or nothing. Committing again the same is fine.

        Raises:
            ArtifactRefused: A file is missing, cut off, not sealed, or not what was declared; the upload stays.
            AlreadyExists: The artifact is there with other files.
            NotFound: Neither the upload nor the artifact is there.
            Unavailable: The disk is full or failed; the upload stays.
        """
        ...

    async def abort(self, upload_id: str) -> None:
        """Removes an upload; fine when it is gone."""
        ...

    async def read(self, artifact_id: str, file: str, offset: int, length: int) -> bytes:
        """Up to `length` bytes of a file of an artifact, fewer at its end.

        Raises:
            NotFound: The artifact has no such file.
        """
        ...

    async def delete(self, artifact_id: str) -> int:
        """Removes an artifact; returns its bytes, 0 when it is gone."""
        ...

    def local_dir(self, artifact_id: str) -> Path | None:
        """The artifact's folder where its files can be opened by path; None where they cannot."""
        ...

    async def sweep(
        self, keep_artifacts: AbstractSet[str], keep_uploads: AbstractSet[str], older_than_s: float
    ) -> SweepReport:
        """Removes artifacts and uploads that nobody keeps and that were last touched `older_than_s` ago or earlier."""
        ...


def check_append(file: str, offset: int, found: int) -> None:
    """An append goes on exactly where the file ends.

    Raises:
        Conflict: It does not.
    """
    if offset != found:
        raise Conflict(
            f"file {file!r} has {found} bytes, the upload went on at {offset}; go on at {found}",
            fields={"file": file, "received": str(found), "offset": str(offset)},
        )


def check_names(files: Sequence[SealedFile], found: AbstractSet[str]) -> None:
    """What was declared is what arrived, by name.

    Raises:
        ArtifactRefused: A file is missing, undeclared, or named twice; or there is none.
    """
    declared = [check_file_name(f.name) for f in files]
    if not declared or len(set(declared)) != len(declared):
        raise InvalidInput(
            "files must name at least one file and none twice; declare each file once", fields={"field": "files"}
        )
    # A file that has not sent its first byte is missing here; so is one of zero bytes.
    for name in sorted(set(declared) ^ found):
        problem = "did not arrive" if name in declared else "arrived but is not declared"
        raise ArtifactRefused(f"file {name!r} {problem}; upload exactly the declared files", fields={"file": name})


def check_sealed(file: SealedFile, size: int, head: bytes, digest: bytes) -> None:
    """One arrived file against its declaration.

    Args:
        size: Bytes that arrived.
        head: Its first bytes, 128 of them if it has so many.
        digest: SHA-256 of all of it.

    Raises:
        ArtifactRefused: Cut off, not sealed, or other bytes than declared.
    """
    name = file.name
    expected = sealed_size(file.plain_size)
    if size != expected or size != file.sealed_size:
        raise _refused(name, f"has {size} bytes, {expected} were declared; go on with the upload")
    try:
        header = parse_header(head, name)
    except DataLoss as error:
        raise _refused(name, f"is not a sealed file ({error.message})") from None
    if header.plain_size != file.plain_size:
        raise _refused(name, f"says {header.plain_size} plain bytes, {file.plain_size} were declared; push it again")
    if not hmac.compare_digest(hashlib.sha256(head[:HEADER_BYTES]).digest(), file.header_sha256):
        raise _refused(name, "has another header than declared (header_sha256); push it again")
    if not hmac.compare_digest(digest, file.sealed_sha256):
        raise _refused(name, "was changed on its way (sealed_sha256); push it again")


def missing_upload(upload_id: str) -> NotFound:
    """For an upload that was aborted, committed, or never begun."""
    return NotFound(
        f"upload {upload_id!r} is not there; begin a new version",
        fields={"upload_id": upload_id},
    )


def missing_blob(artifact_id: str, file: str) -> NotFound:
    """For a file that no artifact has."""
    return NotFound(
        f"artifact {artifact_id!r} has no file {file!r}; push the version again",
        fields={"artifact_id": artifact_id, "file": file},
    )


def _refused(name: str, problem: str) -> ArtifactRefused:
    return ArtifactRefused(f"file {name!r} {problem}", fields={"file": name})
