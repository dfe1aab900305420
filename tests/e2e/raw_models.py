"""The `Models` service called as a hostile or broken client would."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc

from partywall.sealed import Context, Sealer
from partywall.v1 import models_pb2, models_pb2_grpc

STEP_S = 60.0


class RawModels:
    """Pushes without the client's own checks, as a hostile or broken client would."""

    def __init__(self, address: str, key: str) -> None:
        self.channel = grpc.insecure_channel(address)
        self.stub = models_pb2_grpc.ModelsStub(self.channel)
        self.metadata = (("authorization", f"Bearer {key}"),)

    def begin(self, model: str, manifest: models_pb2.Manifest, files: dict[str, bytes]) -> Any:
        declared = [models_pb2.FileDeclaration(name=n, plain_size=len(d)) for n, d in files.items()]
        request = models_pb2.BeginVersionRequest(model=model, manifest=manifest, files=declared)
        return self.stub.BeginVersion(request, metadata=self.metadata, timeout=STEP_S)

    def seal(self, begun: Any, model: str, name: str, data: bytes, folder: Path) -> tuple[bytes, models_pb2.SealedFile]:
        source = folder / f"raw-{name}"
        source.write_bytes(data)
        context = Context(begun.tenant_id, model, begun.version, name)
        sealer = Sealer(len(data), begun.data_key, context, begun.key_record_id)
        with source.open("rb") as stream:
            sealed = b"".join(bytes(view) for view in sealer.stream(stream))
        source.unlink()
        f = sealer.sealed_file()
        return sealed, models_pb2.SealedFile(
            name=f.name,
            plain_size=f.plain_size,
            sealed_size=f.sealed_size,
            header_sha256=f.header_sha256,
            sealed_sha256=f.sealed_sha256,
        )

    def upload(self, upload_id: str, name: str, sealed: bytes, offset: int = 0) -> int:
        def chunks() -> Iterator[models_pb2.UploadChunk]:
            yield models_pb2.UploadChunk(upload_id=upload_id, file=name, offset=offset, data=sealed[:1000])
            yield models_pb2.UploadChunk(data=sealed[1000:])

        return int(self.stub.UploadFile(chunks(), metadata=self.metadata, timeout=STEP_S).received)

    def commit(self, upload_id: str, files: list[models_pb2.SealedFile]) -> Any:
        request = models_pb2.CommitVersionRequest(upload_id=upload_id, files=files)
        return self.stub.CommitVersion(request, metadata=self.metadata, timeout=STEP_S)

    def get(self, model: str) -> Any:
        return self.stub.GetModel(models_pb2.GetModelRequest(name=model), metadata=self.metadata, timeout=STEP_S)

    def push(self, model: str, manifest: models_pb2.Manifest, files: dict[str, bytes], folder: Path) -> Any:
        begun = self.begin(model, manifest, files)
        sealed_files = []
        for name, data in files.items():
            sealed, described = self.seal(begun, model, name, data, folder)
            self.upload(begun.upload_id, name, sealed)
            sealed_files.append(described)
        return self.commit(begun.upload_id, sealed_files)

    def state(self, model: str) -> tuple[str, str]:
        version = self.get(model).versions[-1]
        name = models_pb2.VersionState.Name(version.state).removeprefix("VERSION_STATE_")
        return name, version.reason
