"""The push flow, call by call, as tests make it through the wire."""

from __future__ import annotations

from typing import Any

from control_world import WEIGHTS, Ports, begin_request, chunks

from partywall.v1 import models_pb2 as pb
from partywall.wire.convert import sealed_file_to_proto

FILE = "weights.safetensors"


async def begin(ports: Ports, files: dict[str, bytes] | None = None, tenant: str = "acme", **manifest: Any) -> Any:
    request = begin_request("bert", {FILE: WEIGHTS} if files is None else files, **manifest)
    return await ports.models.BeginVersion(request, metadata=ports.as_tenant(tenant))


async def upload(ports: Ports, begun: Any, data: bytes, offset: int = 0, tenant: str = "acme", name: str = FILE) -> int:
    stream = chunks(begun.upload_id, name, data, offset)
    return int((await ports.models.UploadFile(stream, metadata=ports.as_tenant(tenant))).received)


async def commit(ports: Ports, begun: Any, *declared: Any, promote: bool = False, tenant: str = "acme") -> Any:
    files = [sealed_file_to_proto(one) for one in declared]
    request = pb.CommitVersionRequest(upload_id=begun.upload_id, files=files, promote=promote)
    return await ports.models.CommitVersion(request, metadata=ports.as_tenant(tenant))


async def call(ports: Ports, method: str, tenant: str = "acme", **fields: Any) -> Any:
    request = getattr(pb, f"{method}Request")(**fields)
    return await getattr(ports.models, method)(request, metadata=ports.as_tenant(tenant))
