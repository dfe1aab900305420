"""Server reflection over one pool that knows both worlds: `partywall.v1` and the Open Inference Protocol."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

from partywall.v1 import fleet_pb2, models_pb2, tenants_pb2
from partywall.wire import inference as oip
from router.front.server import FrontServer

_DEFAULT_FILES: tuple[Any, ...] = (
    tenants_pb2.DESCRIPTOR,
    models_pb2.DESCRIPTOR,
    fleet_pb2.DESCRIPTOR,
    health_pb2.DESCRIPTOR,
    reflection_pb2.DESCRIPTOR,
)


def enable(server: FrontServer | grpc.aio.Server, services: Iterable[str]) -> None:
    """Adds the reflection service for `services`, full names."""
    pool = descriptor_pool.DescriptorPool()
    added: set[str] = set()
    for descriptor in (*_DEFAULT_FILES, oip.SERVICE.file):
        _add(pool, descriptor, added)
    servicer = reflection.aio.ReflectionServicer((*services, reflection.SERVICE_NAME), pool=pool)
    add: Any = reflection_pb2_grpc.add_ServerReflectionServicer_to_server
    # Not by `enable_server_reflection`: for any server but grpc.aio's own it takes the blocking servicer.
    add(servicer, server)


def _add(pool: descriptor_pool.DescriptorPool, descriptor: Any, added: set[str]) -> None:
    if descriptor.name in added:
        return
    added.add(descriptor.name)
    for dependency in descriptor.dependencies:
        _add(pool, dependency, added)
    proto = descriptor_pb2.FileDescriptorProto()
    descriptor.CopyToProto(proto)
    pool.Add(proto)
