"""What the zygote is asked for when a worker is wanted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from isolation.sandbox import SandboxPolicy
from partywall.domain.fleet import DeviceKind, Partition
from partywall.v1 import fleet_pb2, worker_pb2
from partywall.wire import convert


def spawn_request(
    worker_id: str,
    partition: Partition,
    device_kind: DeviceKind,
    modules: Sequence[str],
    sandbox: SandboxPolicy | None,
    environment: Mapping[str, str] | None,
) -> worker_pb2.SpawnWorker:
    """The message; see `ZygoteClient.spawn` for what the arguments are. Paths are made absolute."""
    policy = sandbox or SandboxPolicy()
    return worker_pb2.SpawnWorker(
        worker_id=worker_id,
        partition=convert.partition_to_proto(partition),
        device_kind=fleet_pb2.DeviceKind.Value(f"DEVICE_KIND_{device_kind.name}"),
        modules=[_absolute(name) for name in modules],
        sandbox=worker_pb2.SandboxPolicy(
            read_paths=[str(p.absolute()) for p in policy.read_paths],
            write_paths=[str(p.absolute()) for p in policy.write_paths],
            required=policy.required,
        ),
        environment=dict(environment or {}),
    )


def _absolute(module: str) -> str:
    return str(Path(module).absolute()) if module.endswith(".py") else module
