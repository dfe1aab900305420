"""CUDA probes: the same idea as on the CPU, as torch operations recorded once in a CUDA graph.

A graph takes the host out of the unit, so that the probe's own latency tells of the device alone; only the launch-path
probe launches its kernels one by one, because launches are what it presses on. Importable without CUDA and without
torch: what needs them is inside. Sizes follow the device (`plan_for_device`); nothing here is tuned to one GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from isolation.interference.probes import Load
from partywall.domain.profiles import Resource
from partywall.errors import InvalidInput, Unsupported

MIB = 1 << 20
Operation = Callable[[], None]
_WARMUP = 3


@dataclass(frozen=True, slots=True)
class ProbeSizes:
    """Bytes and counts of one device's probes.

    Attributes:
        stream_bytes: One of the two buffers that DRAM streaming copies between: far larger than L2.
        gathers: Random 4-byte reads in one unit.
        l2_bytes, l2_large_bytes: Footprints swept in place: half of L2, and just more than fits beside anything else.
        matrix: Side of the square bfloat16 matrices of the power probe; three of them stay in L2.
        launches: Tiny kernels in one unit.
        copy_bytes: One copy from pinned host memory.
    """

    stream_bytes: int
    gathers: int
    l2_bytes: int
    l2_large_bytes: int
    matrix: int
    launches: int
    copy_bytes: int


def plan_for_device(l2_bytes: int, memory_bytes: int) -> ProbeSizes:
    """Sizes for a device with this much L2 and memory; all probes together take less than a tenth of the memory.

    Raises:
        InvalidInput: A size is not positive.
    """
    if l2_bytes <= 0 or memory_bytes <= 0:
        raise InvalidInput(f"l2_bytes and memory_bytes must be positive, got {l2_bytes} and {memory_bytes}")
    stream = min(max(8 * l2_bytes, 256 * MIB), memory_bytes // 32)
    side = 256
    while side < 4096 and 3 * 2 * (2 * side) ** 2 <= l2_bytes:
        side *= 2
    return ProbeSizes(
        stream_bytes=stream // MIB * MIB or MIB,
        gathers=1 << 20,
        l2_bytes=l2_bytes // 2,
        l2_large_bytes=l2_bytes * 5 // 6,
        matrix=side,
        launches=64,
        copy_bytes=32 * MIB,
    )


Maker = Callable[[Any, ProbeSizes, str], Operation]
"""(torch, sizes, device) to the operations of one unit."""


class GraphLoad:
    """Replays a captured graph and waits for it; `unit` blocks for about a millisecond."""

    def __init__(self, operation: Callable[[], None]) -> None:
        torch = _torch()

        self._graph = torch.cuda.CUDAGraph()
        self._stream = torch.cuda.Stream()
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            # Libraries set themselves up on the first call, which a capture would refuse.
            for _ in range(_WARMUP):
                operation()
        torch.cuda.synchronize()
        with torch.cuda.graph(self._graph, stream=self._stream):
            operation()
        torch.cuda.synchronize()

    def unit(self) -> None:
        torch = _torch()

        with torch.cuda.stream(self._stream):
            self._graph.replay()
        self._stream.synchronize()


class EagerLoad:
    """Runs an operation launch by launch on a stream of its own and waits for it."""

    def __init__(self, operation: Callable[[], None]) -> None:
        torch = _torch()

        self._operation = operation
        self._stream = torch.cuda.Stream()
        for _ in range(_WARMUP):
            self.unit()

    def unit(self) -> None:
        torch = _torch()

        with torch.cuda.stream(self._stream):
            self._operation()
        self._stream.synchronize()


def make_cuda_load(resource: Resource, sizes: ProbeSizes | None = None) -> Load:
    """The load for a resource on the current CUDA device.

    Raises:
        Unsupported: There is no CUDA device here.
        InvalidInput: The resource has no CUDA probe.
    """
    if resource not in _MAKERS:
        known = ", ".join(r.value for r in _MAKERS)
        raise InvalidInput(f"resource {resource.value!r} has no CUDA probe; choose one of: {known}")
    torch = _torch()
    if sizes is None:
        properties = torch.cuda.get_device_properties(torch.cuda.current_device())
        sizes = plan_for_device(int(properties.L2_cache_size), int(properties.total_memory))
    operation = make_operation(torch, resource, sizes, "cuda")
    return EagerLoad(operation) if resource in _EAGER else GraphLoad(operation)


def make_operation(torch: Any, resource: Resource, sizes: ProbeSizes, device: str) -> Operation:
    """One unit's operations on a device; on the CPU they do the same, which is how they are tested without a GPU."""
    return _MAKERS[resource](torch, sizes, device)


def _torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise Unsupported('CUDA probes need torch; install "partywall[agent]"') from error
    if not torch.cuda.is_available():
        raise Unsupported("this worker sees no CUDA device; profile on a node with a GPU, or on its CPU")
    return torch


def _stream(torch: Any, sizes: ProbeSizes, device: str) -> Operation:
    source = torch.ones(sizes.stream_bytes // 4, dtype=torch.float32, device=device)
    target = torch.empty_like(source)

    def operation() -> None:
        target.copy_(source)

    return operation


def _random(torch: Any, sizes: ProbeSizes, device: str) -> Operation:
    values = torch.ones(sizes.stream_bytes // 4, dtype=torch.float32, device=device)
    generator = torch.Generator(device=device).manual_seed(0)
    places = torch.randint(0, values.numel(), (sizes.gathers,), device=device, generator=generator)
    target = torch.empty(sizes.gathers, dtype=torch.float32, device=device)

    def operation() -> None:
        torch.index_select(values, 0, places, out=target)

    return operation


def _sweep(footprint: Callable[[ProbeSizes], int]) -> Maker:
    def make(torch: Any, sizes: ProbeSizes, device: str) -> Operation:
        lines = torch.zeros(footprint(sizes) // 4, dtype=torch.float32, device=device)

        def operation() -> None:
            for _ in range(16):
                lines.add_(1.0)

        return operation

    return make


def _power(torch: Any, sizes: ProbeSizes, device: str) -> Operation:
    a = torch.randn(sizes.matrix, sizes.matrix, dtype=torch.bfloat16, device=device)
    b = torch.randn(sizes.matrix, sizes.matrix, dtype=torch.bfloat16, device=device)
    out = torch.empty_like(a)

    def operation() -> None:
        for _ in range(8):
            torch.mm(a, b, out=out)

    return operation


def _launch(torch: Any, sizes: ProbeSizes, device: str) -> Operation:
    cell = torch.zeros(1, device=device)

    def operation() -> None:
        for _ in range(sizes.launches):
            cell.add_(1.0)

    return operation


def _pcie(torch: Any, sizes: ProbeSizes, device: str) -> Operation:
    host = torch.ones(sizes.copy_bytes // 4, dtype=torch.float32, pin_memory=device == "cuda")
    target = torch.empty(sizes.copy_bytes // 4, dtype=torch.float32, device=device)

    def operation() -> None:
        target.copy_(host, non_blocking=True)

    return operation


_MAKERS: dict[Resource, Maker] = {
    Resource.DRAM: _stream,
    Resource.RANDOM: _random,
    Resource.L2: _sweep(lambda sizes: sizes.l2_bytes),
    Resource.L2_LARGE: _sweep(lambda sizes: sizes.l2_large_bytes),
    Resource.POWER: _power,
    Resource.LAUNCH: _launch,
    Resource.PCIE: _pcie,
}
_EAGER = frozenset({Resource.LAUNCH})
CUDA_RESOURCES = tuple(_MAKERS)
