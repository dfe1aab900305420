"""What the protocol's questions about models are answered with; plain keyword arguments for the messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from partywall.domain.models import TensorSpec, VersionState
from partywall.wire import inference as oip
from router.gateway.counters import ModelCounters
from router.gateway.refusals import not_serving
from router.gateway.replicas import ModelRoute, Route

_CONFIG_TYPE = {"BYTES": "STRING"}
_STATE = {
    VersionState.READY: "READY",
    VersionState.LOADING: "LOADING",
    VersionState.PENDING: "LOADING",
    VersionState.STORED: "UNAVAILABLE",
    VersionState.FAILED: "UNAVAILABLE",
}
_GENERIC = (TensorSpec("INPUT", "BYTES", (-1,)),)
"""What an open signature (identity) shows to clients that insist on a list; it takes any tensors."""


def describe_metadata(name: str, model: ModelRoute, route: Route) -> dict[str, Any]:
    """ModelMetadataResponse.

    Raises:
        PartywallError: The version has never been loaded, so nobody knows its tensors.
    """
    signature = route.signature
    if signature is None:
        raise not_serving(route)
    inputs = signature.inputs or (_GENERIC if signature.open else ())
    outputs = signature.outputs or (_GENERIC if signature.open else ())
    return {
        "name": name,
        "versions": [str(n) for n in sorted(model.versions)],
        "platform": f"partywall_{route.version.manifest.engine}",
        "inputs": [{"name": t.name, "datatype": t.datatype, "shape": t.shape} for t in inputs],
        "outputs": [{"name": t.name, "datatype": t.datatype, "shape": t.shape} for t in outputs],
    }


def describe_config(name: str, route: Route) -> dict[str, Any]:
    """The part of Triton's model configuration that clients read.

    Raises:
        PartywallError: The version has never been loaded.
    """
    signature = route.signature
    if signature is None:
        raise not_serving(route)
    batched = signature.max_batch > 0

    def tensor(spec: TensorSpec) -> dict[str, Any]:
        kind = oip.DATA_TYPES[_CONFIG_TYPE.get(spec.datatype, spec.datatype)]
        return {"name": spec.name, "data_type": kind, "dims": spec.shape[1:] if batched else spec.shape}

    config: dict[str, Any] = {
        "name": name,
        "platform": f"partywall_{route.version.manifest.engine}",
        "backend": route.version.manifest.engine,
        "max_batch_size": signature.max_batch,
        "input": [tensor(t) for t in signature.inputs],
        "output": [tensor(t) for t in signature.outputs],
        "instance_group": [{"name": name, "count": max(1, len(route.replicas))}],
    }
    if batched:
        config["dynamic_batching"] = {}
    return config


def describe_statistics(
    models: Mapping[tuple[str, str, int], ModelCounters], tenant_id: str, name: str, version: str
) -> list[dict[str, Any]]:
    """ModelStatistics of one tenant's models, or of one of them."""
    out = []
    for (owner, model, number), c in models.items():
        if owner != tenant_id or (name and name != model) or (version and version != str(number)):
            continue
        out.append(
            {
                "name": model,
                "version": str(number),
                "last_inference": c.last_ms,
                "inference_count": c.rows,
                "execution_count": round(c.executions),
                "inference_stats": {
                    "success": {"count": c.success, "ns": c.success_ns},
                    "fail": {"count": c.failed, "ns": c.failed_ns},
                    "queue": {"count": c.success, "ns": c.queue_ns},
                    "compute_infer": {"count": c.success, "ns": c.compute_ns},
                },
            }
        )
    return out


def repository_index(
    routes: Mapping[tuple[str, str], ModelRoute], tenant_id: str, *, only_ready: bool
) -> list[dict[str, str]]:
    """RepositoryIndexResponse.models: every version of the tenant's models with its state."""
    out = []
    for (owner, name), model in sorted(routes.items()):
        if owner != tenant_id:
            continue
        for number, route in sorted(model.versions.items()):
            state = "READY" if route.replicas else _STATE[route.version.state]
            if state == "READY" and not route.replicas:
                state = "LOADING"
            if only_ready and state != "READY":
                continue
            out.append({"name": name, "version": str(number), "state": state, "reason": route.version.reason})
    return out
