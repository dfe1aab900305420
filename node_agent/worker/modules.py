"""The module engine: architectures that the operator registered, with a tenant's weights in them.

An operator's module is a Python file or an importable name that holds `ARCHITECTURES: Mapping[str, Architecture]`. Its
code is the operator's own; a tenant only names it and brings tensors.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np
import torch

from isolation.engine import Array, Artifact, check_options
from node_agent.worker.contents import DTYPES
from node_agent.worker.device_memory import DeviceMemory, open_memory
from node_agent.worker.moving import MovableWeights
from node_agent.worker.tensors import module_bytes, to_numpy, to_torch
from node_agent.worker.weights import load_weights
from partywall.domain.fleet import DeviceKind
from partywall.domain.models import Signature, TensorSpec
from partywall.errors import ArtifactRefused, InternalError, InvalidInput, NotReady, Reason

Options: TypeAlias = Mapping[str, str]
Specs: TypeAlias = tuple[TensorSpec, ...] | Callable[[Options], tuple[TensorSpec, ...]]

_ARCHITECTURE = "architecture"


@dataclass(frozen=True, slots=True)
class Architecture:
    """How to build a network and what it takes and gives.

    `build` makes the network from the options (raise InvalidInput for a bad one); its weights are replaced afterwards.
    The network's `forward` takes the inputs in order and returns one tensor, or as many as there are outputs. Specs may
    be functions of the options.
    """

    build: Callable[[Options], torch.nn.Module]
    inputs: Specs
    outputs: Specs
    max_batch: int = 64
    """Rows of one call; 0: the first dimension is not a batch."""
    options: frozenset[str] = frozenset()
    """Names of the options that `build` reads."""


class ModuleEngine:
    """Loads one registered architecture with the weights of an artifact. `memory`: where to; None: the device's own."""

    name = "module"

    def __init__(
        self, modules: Sequence[str], device_kind: DeviceKind, memory: Callable[[], DeviceMemory] | None = None
    ) -> None:
        self._modules = tuple(modules)
        self._memory = memory or (lambda: open_memory(device_kind))

    def load(self, artifact: Artifact, options: Options, max_batch: int) -> _NetworkModel:
        """Needs the option `architecture` and one or more .safetensors files with exactly its tensors."""
        registered = register(self._modules)
        name = options.get(_ARCHITECTURE, "")
        has = ", ".join(sorted(registered)) or "none (the operator adds them with --modules)"
        if not name:
            raise InvalidInput(
                f"option {_ARCHITECTURE!r} is missing: name a registered architecture; this node has: {has}",
                fields={"field": f"options.{_ARCHITECTURE}"},
            )
        if name not in registered:
            # Not for good: another node, or this one after a restart, may have it.
            raise NotReady(
                f"option {_ARCHITECTURE!r}: {name!r} is not registered on this node; it has: {has}",
                reason=Reason.WRONG_STATE,
                fields={"field": f"options.{_ARCHITECTURE}", "value": name[:80]},
            )
        architecture = registered[name]
        check_options(f"module {name}", options, architecture.options | {_ARCHITECTURE})
        network = fill(lambda: architecture.build(options), load_weights(artifact), name)
        memory = self._memory()
        memory.place(network.eval().requires_grad_(False))
        signature = Signature(
            inputs=_specs(architecture.inputs, options),
            outputs=_specs(architecture.outputs, options),
            max_batch=_max_batch(architecture.max_batch, max_batch),
        )
        model = _NetworkModel(network, signature, memory)
        model.check(name)
        return model


class _NetworkModel(MovableWeights):
    def __init__(self, network: torch.nn.Module, signature: Signature, memory: DeviceMemory) -> None:
        super().__init__(network, memory)
        self._device = memory.device
        self._names = [spec.name for spec in signature.inputs]
        self.signature = signature
        self.memory_bytes = module_bytes(network)

    @torch.inference_mode()
    def run(self, inputs: Mapping[str, Array], rows: int) -> Mapping[str, Array]:
        found = self._network(*(to_torch(inputs[name], self._device) for name in self._names))
        tensors = (found,) if isinstance(found, torch.Tensor) else tuple(found)
        return {spec.name: to_numpy(t) for spec, t in zip(self.signature.outputs, tensors, strict=True)}

    def check(self, name: str) -> None:
        """Runs once on zeros: what the architecture says it gives must be what it gives."""
        zeros = {spec.name: _zeros(spec) for spec in self.signature.inputs}
        try:
            outputs = self.run(zeros, 1)
        except (ValueError, TypeError) as failure:
            raise InternalError(
                f"architecture {name!r} does not run on zeros of its own inputs: {failure}"
            ) from failure
        for spec in self.signature.outputs:
            array = outputs[spec.name]
            fits = len(array.shape) == len(spec.shape) and all(
                wanted in (-1, size) for wanted, size in zip(spec.shape, array.shape, strict=True)
            )
            if not fits or array.dtype != DTYPES[spec.datatype]:
                raise InternalError(
                    f"architecture {name!r}, output {spec.name!r}: declared {spec.datatype} {list(spec.shape)}, "
                    f"found {array.dtype} {list(array.shape)}; the operator corrects the module"
                )


def register(modules: Sequence[str]) -> dict[str, Architecture]:
    """All architectures of the operator's modules, by name.

    Raises:
        InternalError: A module cannot be imported, has no ARCHITECTURES, or repeats a name; names the module.
    """
    found: dict[str, Architecture] = {}
    for source in modules:
        table = getattr(_import(source), "ARCHITECTURES", None)
        if not isinstance(table, Mapping) or not all(isinstance(a, Architecture) for a in table.values()):
            raise InternalError(f"module {source} has no ARCHITECTURES mapping of names to Architecture")
        for name in table:
            if name in found:
                raise InternalError(f"module {source} registers {name!r}, which another module registered already")
        found.update(table)
    return found


def fill(build: Callable[[], torch.nn.Module], weights: dict[str, torch.Tensor], name: str) -> torch.nn.Module:
    """A network whose parameters and buffers are the given tensors, without a second copy of them.

    Raises:
        ArtifactRefused: A tensor is missing, superfluous or of another shape; names it.
    """
    # On the meta device a network costs neither memory nor random numbers.
    with torch.device("meta"):
        network = build()
    wanted = network.state_dict()
    for key in sorted(wanted.keys() - weights.keys()):
        raise _unfit(key, f"architecture {name!r} needs tensor {key!r} {list(wanted[key].shape)}, the weights lack it")
    for key in sorted(weights.keys() - wanted.keys()):
        raise _unfit(key, f"the weights hold tensor {key!r}, architecture {name!r} has none of that name")
    for key, tensor in wanted.items():
        if tensor.shape != weights[key].shape:
            raise _unfit(
                key,
                f"tensor {key!r}: architecture {name!r} expects shape {list(tensor.shape)}, "
                f"the weights have {list(weights[key].shape)}",
            )
    if any(key not in wanted for key, _ in network.named_buffers()):
        # Buffers that are not saved must be computed: only a real build does that.
        network = build()
    cast = {key: tensor.to(wanted[key].dtype) for key, tensor in weights.items()}
    network.load_state_dict(cast, strict=True, assign=True)
    return network


def _import(source: str) -> ModuleType:
    try:
        if not source.endswith(".py"):
            return importlib.import_module(source)
        path = Path(source)
        spec = importlib.util.spec_from_file_location(f"partywall_operator_{path.stem}", path)
        if spec is None or spec.loader is None:
            raise ImportError(f"no loader for {path.name}")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    except Exception as failure:
        # The operator's code may raise anything.
        raise InternalError(f"module {source} cannot be imported: {type(failure).__name__}: {failure}") from failure
    return module


def _specs(specs: Specs, options: Options) -> tuple[TensorSpec, ...]:
    return specs(options) if callable(specs) else specs


def _max_batch(own: int, wanted: int) -> int:
    return min(own, wanted) if own and wanted else own


def _zeros(spec: TensorSpec) -> Any:
    shape = [1 if size < 0 else size for size in spec.shape]
    if spec.datatype == "BYTES":
        array = np.empty(shape, dtype=object)
        array[...] = b""
        return array
    return np.zeros(shape, DTYPES[spec.datatype])


def _unfit(tensor: str, text: str) -> ArtifactRefused:
    return ArtifactRefused(
        f"{text}; push the weights that belong to it", reason=Reason.BAD_ARTIFACT, fields={"tensor": tensor}
    )
