"""CUDA probes where there is no CUDA: sizes, and clear refusals. On a GPU: benchmarks/gpu_profile.py."""

from __future__ import annotations

import pytest

from isolation.interference.probes_cuda import (
    CUDA_RESOURCES,
    MIB,
    ProbeSizes,
    make_cuda_load,
    make_operation,
    plan_for_device,
)
from partywall.domain.profiles import Resource
from partywall.errors import InvalidInput, Unsupported


@pytest.mark.parametrize(("l2", "memory"), [(50 * MIB, 80 << 30), (6 * MIB, 16 << 30), (96 * MIB, 24 << 30)])
def test_sizes_follow_the_device(l2: int, memory: int) -> None:
    sizes = plan_for_device(l2, memory)
    assert sizes.stream_bytes >= 5 * l2
    assert sizes.l2_bytes < l2
    assert sizes.l2_bytes < sizes.l2_large_bytes < l2
    assert 3 * 2 * sizes.matrix**2 <= max(l2, 3 * 2 * 256**2)
    assert 4 * sizes.stream_bytes + sizes.copy_bytes < memory / 10 + sizes.copy_bytes + memory / 10


def test_sizes_of_an_impossible_device_are_refused() -> None:
    with pytest.raises(InvalidInput, match="l2_bytes"):
        plan_for_device(0, 1)


def test_a_resource_of_the_cpu_has_no_cuda_probe() -> None:
    assert Resource.LLC not in CUDA_RESOURCES
    with pytest.raises(InvalidInput, match="no CUDA probe"):
        make_cuda_load(Resource.LLC)


@pytest.mark.parametrize("resource", CUDA_RESOURCES)
def test_every_operation_runs_and_can_be_repeated(resource: Resource) -> None:
    torch = pytest.importorskip("torch")
    sizes = ProbeSizes(MIB, 1 << 10, MIB // 4, MIB // 2, 64, 4, MIB)
    operation = make_operation(torch, resource, sizes, "cpu")
    operation()
    operation()


def test_without_a_device_the_probe_says_so() -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(Unsupported, match="CUDA"):
        make_cuda_load(Resource.DRAM)
