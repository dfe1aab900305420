"""Models and their versions: what was declared at the push, what the worker found, where it stands."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime


class VersionState(enum.StrEnum):
    STORED = "stored"
    PENDING = "pending"
    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output. `datatype` is the protocol's name (FP32, BYTES, ...); -1 is a free dimension."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Signature:
    """What a loaded version takes and gives; the worker that loaded it is the authority.

    `max_batch` 0: the first dimension is not a batch. `open`: any tensors are taken (identity).
    """

    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    max_batch: int = 0
    open: bool = False


@dataclass(frozen=True, slots=True)
class Manifest:
    """What the pushing side declares about a version. Options belong to the engine (docs/engines.md)."""

    engine: str
    options: Mapping[str, str] = field(default_factory=dict)
    slo_ms: int = 0
    share_percent: int = 0
    memory_bytes: int = 0
    max_batch: int = 0
    side_effects: bool = False
    """Running a request twice does harm: it is never repeated where it may have been executed."""
    cold_start: bool = False
    """A request wakes the version when it is not resident."""


@dataclass(frozen=True, slots=True)
class SealedFile:
    """One file of an artifact: sizes in bytes, digests over the clear header and over all ciphertext."""

    name: str
    plain_size: int
    sealed_size: int
    header_sha256: bytes
    sealed_sha256: bytes


@dataclass(frozen=True, slots=True)
class Version:
    """One immutable version of a model and what is known of it."""

    model_id: str
    number: int
    artifact_id: str
    manifest: Manifest
    files: tuple[SealedFile, ...]
    key_record_id: str
    created_at: datetime
    state: VersionState = VersionState.STORED
    reason: str = ""
    resident: bool = False
    signature: Signature | None = None
    memory_bytes: int = 0
    load_seconds: float = 0.0
    rev: int = 0

    @property
    def plain_bytes(self) -> int:
        return sum(f.plain_size for f in self.files)

    @property
    def sealed_bytes(self) -> int:
        return sum(f.sealed_size for f in self.files)


@dataclass(frozen=True, slots=True)
class Model:
    """A tenant's model under its own plain name. `live` 0: no version is live. `replicas` of the live version."""

    id: str
    tenant_id: str
    name: str
    live: int = 0
    previous: int = 0
    rev: int = 0
    replicas: int = 1
