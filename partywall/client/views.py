"""What the client hands out: plain values, no protobuf."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from partywall.client.tensors import Array, from_contents, from_raw
from partywall.domain.models import Manifest, SealedFile, Signature, TensorSpec, VersionState
from partywall.errors import InternalError
from partywall.v1 import models_pb2
from partywall.wire.convert import manifest_from_proto, sealed_file_from_proto, signature_from_proto


class InferResult(Mapping[str, Array]):
    """Outputs by name, as numpy arrays; read-only views of the answer (BYTES: arrays of `bytes`).

    Attributes:
        model: The model that answered.
        version: Its version, as text.
        id: The request's id.
    """

    __slots__ = ("_outputs", "id", "model", "version")

    def __init__(self, outputs: Mapping[str, Array], *, model: str, version: str, id: str) -> None:  # noqa: A002
        self.model = model
        self.version = version
        self.id = id
        self._outputs = dict(outputs)

    def __getitem__(self, name: str) -> Array:
        return self._outputs[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._outputs)

    def __len__(self) -> int:
        return len(self._outputs)

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name}: {array.dtype}{list(array.shape)}" for name, array in self._outputs.items())
        return f"InferResult(model={self.model!r}, version={self.version!r}, {{{shapes}}})"


@dataclass(frozen=True, slots=True)
class ModelMetadata:
    """What the protocol says about a model; -1 is a free dimension."""

    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True, slots=True)
class VersionInfo:
    """One version and where it stands."""

    number: int
    state: VersionState
    reason: str
    manifest: Manifest
    files: tuple[SealedFile, ...]
    signature: Signature | None
    created_at: datetime
    replicas_ready: int
    memory_bytes: int
    load_seconds: float


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model with its versions. `live_version` 0: none is live.

    `serving_version` answers calls that name no version: the live one, or the one before while that is not ready
    (0: none). `replicas` is how many the live version shall have.
    """

    name: str
    tenant: str
    live_version: int
    previous_version: int
    slo_ms: int
    versions: tuple[VersionInfo, ...]
    serving_version: int = 0
    replicas: int = 1

    def version(self, number: int) -> VersionInfo | None:
        """The version with this number, or None."""
        return next((version for version in self.versions if version.number == number), None)


def infer_result(response: Any) -> InferResult:
    """The outputs of an `inference.ModelInferResponse`.

    Raises:
        InternalError: Raw contents are there for some outputs only.
        InvalidInput: An output's bytes do not fit its datatype and shape.
    """
    raw = response.raw_output_contents
    if raw and len(raw) != len(response.outputs):
        raise InternalError(f"the answer has {len(response.outputs)} outputs and {len(raw)} raw contents")
    outputs: dict[str, Array] = {}
    for index, output in enumerate(response.outputs):
        if raw:
            outputs[output.name] = from_raw(output.name, output.datatype, output.shape, raw[index])
        else:
            outputs[output.name] = from_contents(output.name, output.datatype, output.shape, output.contents)
    return InferResult(outputs, model=response.model_name, version=response.model_version, id=response.id)


def model_metadata(response: Any) -> ModelMetadata:
    """From an `inference.ModelMetadataResponse`."""
    return ModelMetadata(
        name=response.name,
        versions=tuple(response.versions),
        platform=response.platform,
        inputs=tuple(TensorSpec(t.name, t.datatype, tuple(t.shape)) for t in response.inputs),
        outputs=tuple(TensorSpec(t.name, t.datatype, tuple(t.shape)) for t in response.outputs),
    )


def model_info(message: models_pb2.Model) -> ModelInfo:
    return ModelInfo(
        name=message.name,
        tenant=message.tenant,
        live_version=message.live_version,
        previous_version=message.previous_version,
        slo_ms=message.slo_ms,
        versions=tuple(_version_info(version) for version in message.versions),
        serving_version=message.serving_version,
        replicas=message.replicas or 1,
    )


def _version_info(message: models_pb2.Version) -> VersionInfo:
    # A newer server may know more states than this client.
    known = message.state in models_pb2.VersionState.values()
    state = models_pb2.VersionState.Name(message.state).removeprefix("VERSION_STATE_") if known else ""
    return VersionInfo(
        number=message.version,
        state=VersionState[state] if state in VersionState.__members__ else VersionState.STORED,
        reason=message.reason,
        manifest=manifest_from_proto(message.manifest),
        files=tuple(sealed_file_from_proto(file) for file in message.files),
        signature=signature_from_proto(message.signature) if message.HasField("signature") else None,
        created_at=message.created_at.ToDatetime(tzinfo=UTC),
        replicas_ready=message.replicas_ready,
        memory_bytes=message.memory_bytes,
        load_seconds=message.load_seconds,
    )
