"""The engines by the name a manifest gives. Frameworks are imported only when an engine needs them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from isolation.engine import Engine
from node_agent.worker.identity import IdentityEngine
from partywall.domain.fleet import DeviceKind
from partywall.errors import InvalidInput

if TYPE_CHECKING:
    # torch, which a worker without a framework's model never imports.
    from node_agent.worker.device_memory import DeviceMemory

NAMES = ("identity", "module", "transformers")


def create(
    name: str, modules: Sequence[str], device_kind: DeviceKind, memory: Callable[[], DeviceMemory] | None = None
) -> Engine:
    """The engine of that name. `memory` opens the device's memory when the engine needs it; None: as the kind says.

    Raises:
        InvalidInput: No such engine; names the known ones.
    """
    if name == "identity":
        return IdentityEngine()
    if name == "module":
        from node_agent.worker.modules import ModuleEngine

        return ModuleEngine(modules, device_kind, memory)
    if name == "transformers":
        from node_agent.worker.transformers import TransformersEngine

        return TransformersEngine(device_kind, memory)
    if name == "probe":
        from node_agent.worker.probe import ProbeEngine

        return ProbeEngine(device_kind)
    raise InvalidInput(
        f"engine {name!r} is unknown; use one of {', '.join(NAMES)}", fields={"field": "engine", "value": name[:80]}
    )
