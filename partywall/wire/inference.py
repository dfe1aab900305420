"""The Open Inference Protocol's messages, in a descriptor pool of their own.

tritonclient, kserve and mlserver each register `inference.*` in protobuf's default pool and collide there. Ours
collide with nobody. The messages are made at run time, so they are typed as `Any`.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import resources
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PACKAGE = "inference"
SERVICE_NAME = "inference.GRPCInferenceService"


def _load() -> descriptor_pool.DescriptorPool:
    blob = resources.files(__package__).joinpath("inference.binpb").read_bytes()
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(blob).file:
        pool.Add(file)
    return pool


POOL = _load()
SERVICE = POOL.FindServiceByName(SERVICE_NAME)


def message(name: str) -> Any:
    """The message class `inference.<name>`; dots name nested messages."""
    return message_factory.GetMessageClass(POOL.FindMessageTypeByName(f"{PACKAGE}.{name}"))


ModelInferRequest = message("ModelInferRequest")
ModelInferResponse = message("ModelInferResponse")
ModelStreamInferResponse = message("ModelStreamInferResponse")
ModelMetadataResponse = message("ModelMetadataResponse")
ModelConfigResponse = message("ModelConfigResponse")
DATA_TYPES: dict[str, int] = {
    value.name.removeprefix("TYPE_"): value.number for value in POOL.FindEnumTypeByName(f"{PACKAGE}.DataType").values
}


def method_codec(name: str) -> tuple[str, Callable[[Any], bytes], Callable[[bytes], Any], bool]:
    """For a client: full path, request serialiser, response deserialiser, whether it streams."""
    method = SERVICE.methods_by_name[name]
    request = message_factory.GetMessageClass(method.input_type)
    response = message_factory.GetMessageClass(method.output_type)
    return f"/{SERVICE_NAME}/{name}", request.SerializeToString, response.FromString, method.client_streaming
